"""What is freed is kept: a second use of the same memory faults no page in."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from stforecast.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24).sum()  # 64 MiB, above any threshold that glibc moves to by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
before = faults()
kept = keep_freed_memory()
faults()
# The least of several: a system that is short of memory takes pages away in between.
print(int(kept), before, min(faults() for _ in range(5)))
"""


def test_memory_once_used_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, before, after = map(int, done.stdout.split())
    if not kept:
        pytest.skip("this C library is not glibc")
    # 4 times 64 MiB are 65,536 pages of 4 KiB; fewer where the system has larger ones.
    assert after <= before / 10
    assert after < 100


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from stforecast.allocation import keep_freed_memory

    class Other:
        """A C library that has neither of the two functions."""

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    assert keep_freed_memory.__wrapped__() is False
