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
numbers = torch.ones(1024, 1024)
before = faults()
for _ in range(50):
    numbers + numbers + numbers
print(int(kept), faults() - before)
"""


def page_faults(*arguments: str) -> tuple[int, int]:
    found = subprocess.run([sys.executable, "-c", COUNT, *arguments], capture_output=True, text=True, check=True)
    kept, faults = map(int, found.stdout.split())
    return kept, faults


def test_memory_that_is_kept_is_not_handed_out_anew() -> None:
    kept, few = page_faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, many = page_faults()
    assert few < many / 5
