"""The time budget of a choice and its fit."""

import time
from collections import deque

import numpy as np
import torch
from torch.nn.functional import embedding_bag

MARGIN = 0.04  # share of the budget kept free for the unforeseen
TIMED_STEPS = 20  # the latest ones tell what a step takes
PROBES = 8  # of each number of threads
SETTLED_SECONDS = 5.0  # that a number of threads stays at least
COLD_STEPS = 2  # the first ones of a training take longer and are not counted
CHECKED_STEPS = 8  # on a GPU, where the host waits for the device to read the time


class OutOfTime(Exception):
    """A share of the budget is used up."""


class Clock:
    """Seconds of wall time since the start, and the budget (None: unlimited)."""

    def __init__(
        self,
        budget: float | None,
        device: torch.device,
        spent: float = 0.0,
        threads: int | None = None,
    ) -> None:
        """`spent` seconds of the budget were used before, by a process that was stopped.

        `threads` of torch that were asked for, which then stay.
        """
        self.started, self.budget, self.device = time.monotonic() - spent, budget, device
        self.reserved = 0.0  # seconds that the fit needs before its first step
        self.most_threads = torch.get_num_threads() if threads is None else 1  # that may be settled on
        self._settled: float | None = None  # when

    def now(self) -> float:
        """Seconds since the start, once the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - self.started

    def settle_threads(self) -> None:
        """Set torch's threads to what is fastest now: beside a busy process one may be, several times over.

        Only where a budget counts seconds and no number of threads was asked for, and every few seconds.
        """
        if self.budget is None or self.device.type != "cpu" or self.most_threads == 1:
            return
        if self._settled is None or time.monotonic() - self._settled > SETTLED_SECONDS:
            threads = fastest_threads(self.most_threads)
            torch.set_num_threads(threads)
            self._settled = time.monotonic()

    def remaining(self) -> float:
        """Seconds that may still be spent."""
        if self.budget is None:
            return float("inf")
        return self.budget * (1 - MARGIN) - self.reserved - self.now()


def fastest_threads(most: int) -> int:
    """1 or `most`: with how many threads a few operations like a step's take less time now."""
    rows = torch.rand(4096, 64)
    bags = torch.arange(2**17) * 7919 % len(rows)
    starts = torch.arange(0, len(bags), 32)
    taken = dict.fromkeys((1, most), 0.0)
    for _ in range(PROBES):  # in turns, as the load changes
        for threads in taken:
            torch.set_num_threads(threads)
            started = time.perf_counter()
            embedding_bag(bags, rows, starts, mode="sum")
            (rows[:1024] @ rows.T).exp_().sum(1)
            taken[threads] += time.perf_counter() - started
    return min(taken, key=lambda threads: taken[threads])


class StepTimer:
    """Seconds of a training's step, measured again and again as it goes on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = 0
        self._marks = deque[tuple[int, float]](maxlen=TIMED_STEPS + 1)  # steps done, and when

    def tick(self) -> None:
        """Count a step; the time is read at each on CPU, at every eighth on a GPU."""
        self._steps += 1
        if self._steps >= COLD_STEPS and (
            self._clock.device.type == "cpu" or self._steps % CHECKED_STEPS == 0
        ):
            self._marks.append((self._steps, self._clock.now()))

    def pause(self) -> None:
        """Forget the time of the latest step: something else is done now."""
        self._marks.clear()
        self._steps = COLD_STEPS - 1

    def seconds(self) -> float | None:
        """Median seconds of the latest steps; None before two of them are timed."""
        if len(self._marks) < 2:
            return None
        steps, times = np.array(self._marks).T
        return float(np.median(np.diff(times) / np.diff(steps)))
