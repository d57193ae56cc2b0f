"""What a process does with the memory that it frees. Devices and precisions: tests/test_models.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = 48  # MB: what is below 32 MB, glibc may learn to keep by itself
MEASURE = """
import os, sys
from erc_llm.models.devices import keep_freed_memory
kept = len(sys.argv) > 1 and keep_freed_memory()
import torch
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
numbers = torch.ones(12 * 1024, 1024)
numbers + 1  # loads code, starts threads
del numbers
before = resident()
numbers = torch.ones(12 * 1024, 1024)
while_used = resident()
del numbers
freed = resident()
for _ in range(100):
    torch.ones(12 * 1024, 1024)
settled = resident()
for _ in range(20):
    torch.ones(12 * 1024, 1024)
print(int(kept), before, while_used, freed, settled, resident())
"""


def memory(*arguments: str) -> tuple[bool, list[int]]:
    """Whether memory is kept; MB resident before a block is taken, with it, without it, 100 later, 120 later."""
    found = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    kept, *megabytes = map(int, found.stdout.split())
    return bool(kept), megabytes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in /proc what is resident")
def test_memory_that_is_kept_is_used_again_and_not_handed_out_anew() -> None:
    kept, (before, while_used, freed, settled, after) = memory("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert while_used - freed < BLOCK / 4, "what is freed is kept"
    # Aligned memory needs a gap a little larger than itself, so the first few may each take a place of their own.
    assert settled - freed < 20 * BLOCK, "and used again"
    assert after - settled < BLOCK / 4
    _, (before, while_used, freed, settled, after) = memory()
    assert while_used - before > BLOCK * 3 / 4, "by default, a block is handed out anew"
    assert while_used - freed > BLOCK * 3 / 4
    assert abs(after - freed) < BLOCK / 4
