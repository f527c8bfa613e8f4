"""The time budget of a benchmark, and the validation points measured within it."""

import time
from typing import Any

import torch

MARGIN = 0.04  # share of the budget kept free for the unforeseen
CHECKED_STEPS = 8  # the budget is checked each time so many steps are done on a GPU


class OutOfTime(Exception):
    """The budget is used up."""


class Clock:
    """Seconds of wall time since the start, the budget (None: unlimited), and all validation points."""

    def __init__(self, budget: float | None, device: torch.device) -> None:
        self.started, self.budget, self.device = time.monotonic(), budget, device
        self.points = list[dict[str, Any]]()
        self.validation_seconds = 0.0  # of the latest validation
        self.reserved = 0.0  # seconds that the refit needs before its first step

    def now(self) -> float:
        """Seconds since the start, once the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds that may still be spent."""
        if self.budget is None:
            return float("inf")
        return self.budget * (1 - MARGIN) - self.reserved - self.now()

    def is_over(self, step: int) -> bool:
        """Whether the budget is used up; on a GPU only every eighth step is checked, as the host waits."""
        return (self.device.type == "cpu" or step % CHECKED_STEPS == 0) and self.remaining() < 0
