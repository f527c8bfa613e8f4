"""The device by its name, and the memory that a process keeps."""

import platform
import subprocess
import sys

import pytest
import torch

from pipelines.config.errors import InputError
from pipelines.training.devices import choose_device

CLEARED = """
import resource, sys
import torch
from pipelines.training.devices import keep_freed_memory

def cleared():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize() // 2**20

if sys.argv[1] == "keep":
    keep_freed_memory()
before = cleared()
for size in range(1, 25):  # MiB; 300 of all, each as soon as the one before is freed
    torch.ones(size * 2**18)
print(cleared() - before)
"""


@pytest.mark.parametrize("name", ["tpu", "meta", "mps", "cuda:x", "cpu:x", "cuda:99", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"train.device = '{name}'"):
        choose_device(name)


def test_auto_takes_cuda_where_present() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"train.device = 'cuda'"):
            choose_device("cuda")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_freed_memory_is_not_cleared_anew() -> None:
    def mib(how: str) -> int:
        command = [sys.executable, "-c", CLEARED, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert mib("keep") < 150
    assert mib("give back") > 250
