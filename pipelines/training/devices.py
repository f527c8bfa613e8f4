"""The device that is trained and evaluated on, and the memory of the host."""

import ctypes
import os
from contextlib import suppress

import torch

from pipelines.config.errors import InputError

# mallopt's options and what they are set to (malloc.h): freed bytes kept at hand, the largest block of them
M_TRIM_THRESHOLD, KEPT = -1, 2**30
M_MMAP_THRESHOLD, LARGEST = -3, 2**25  # glibc takes no more


def choose_device(name: str, option: str = "train.device") -> torch.device:
    """The device of that name; 'auto' is CUDA where present. Raises InputError, naming the option."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"{option} = '{name}', allowed: auto, cpu, cuda, cuda:N")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{option} = '{name}': {str(error).splitlines()[0]}") from None
    return device


def keep_freed_memory() -> None:
    """Keep freed memory for the next step: glibc would return it, and the system clear it again.

    Holds for the whole process from now on; without glibc it does nothing.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST)


def describe_device(device: torch.device) -> str:
    """The name of the GPU, or the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {os.cpu_count()} cores"
