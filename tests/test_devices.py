"""What a process does with the memory that it frees. Devices and precisions: tests/test_models.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from erc_llm.devices import keep_freed_memory
kept = len(sys.argv) > 1 and keep_freed_memory()
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numbers = torch.ones(12 * 1024, 1024)  # 48 MB: what is below 32 MB, glibc may learn to keep by itself
def add():
    before = faults()
    for _ in range(3):
        numbers + numbers + numbers
    return faults() - before
add()  # loads code, starts threads, takes the memory that may be kept
print(int(kept), min(add() for _ in range(5)))
"""


def page_faults(*arguments: str) -> tuple[int, int]:
    """Whether memory is kept, and the page faults of a few additions: the fewest of five rounds."""
    found = subprocess.run([sys.executable, "-c", COUNT, *arguments], capture_output=True, text=True, check=True)
    kept, faults = map(int, found.stdout.split())
    return kept, faults


def test_memory_that_is_kept_is_not_handed_out_anew() -> None:
    kept, few = page_faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, many = page_faults()
    assert few < many / 5
