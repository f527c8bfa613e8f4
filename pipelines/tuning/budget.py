"""The time budget of a benchmark, and the validation points measured within it."""

import time
from typing import Any

import torch

MARGIN = 0.04  # share of the budget kept free for the unforeseen
STEPS_BETWEEN_LOOKS = 8  # on a GPU, where reading the clock makes the host wait


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

    def has_passed(self, deadline: float, step: int) -> bool:
        """Whether it is later than the deadline; on a GPU only every eighth step is checked."""
        return (self.device.type == "cpu" or step % STEPS_BETWEEN_LOOKS == 0) and self.now() > deadline
