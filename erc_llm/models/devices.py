"""Where a model computes, in what precision, and with what memory.

In: what a user asked for. Out: a torch device, a torch dtype and the reason. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Literal

from erc_llm.errors import ModelError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


def choose_device(device: str = "auto") -> torch.device:
    """The device of this process: under `accelerate launch` each process takes the GPU of its local rank.

    Raises:
        ModelError: The device is unknown to torch, or not there.
    """
    import torch

    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device: '{device}' is not a device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device: '{device}' was asked for, torch {torch.__version__} sees no such GPU; use device=cpu"
        )
    return chosen


def choose_precision(precision: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """What to multiply in on a device, and why.

    `auto` is bf16 where the hardware multiplies it. A CPU without AVX512-BF16 or AMX emulates it, about eight times
    slower than fp32, so it gets fp32; so does a GPU older than Ampere.
    """
    import torch

    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), "asked for"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bf16"
        return torch.float32, "this GPU does not multiply bf16"
    if device.type == "cpu":
        # Private in torch, and absent from some builds: without them nothing is known, and fp32 is always right.
        for probe, unit in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
            if getattr(torch.cpu, probe, lambda: False)():
                return torch.bfloat16, f"this CPU has {unit}"
        return torch.float32, "this CPU has neither AMX nor AVX512-BF16"
    return torch.float32, f"nothing is known of bf16 on {device.type}"


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of `mallopt` in glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let a process on Linux keep what it frees, for scoring on a CPU; returns whether that could be arranged.

    A forest's activations are blocks of many megabytes. By default the C library gives each back to the system, which
    hands it out again page by page, zeroed: a quarter of the time of scoring. What is kept is the peak, and a few gaps
    that aligned blocks leave. Source: mallopt(3); the variable makes torch ask for huge pages, which it reads when it
    first allocates.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all([mallopt(which, _NEVER) for which in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)])


def leave_processes() -> None:
    """Leave the group of processes that trained together, if there is one.

    A process that ends while threads of the group still run may be aborted, its work done: pytorch/pytorch#190489.
    """
    import torch.distributed as processes

    if processes.is_available() and processes.is_initialized():
        processes.destroy_process_group()


def process_rank() -> int:
    """This process's number among those of one training, 0 for the main one; as launchers set it."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
