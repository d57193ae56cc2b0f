"""Devices: chooses device and precision, sets how memory is freed, and tells cores and rank of this process.

Input: a configuration's settings, and a launcher's environment. Output: a torch device, a dtype and the reason.
Does not depend on: models.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING, Literal

from erc_llm.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISION_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # to names of torch's dtypes


def choose_device(device: str = "auto") -> torch.device:
    """The one device of this process.

    Args:
        device: `auto` is a GPU if there is one. `auto` and `cuda` are the GPU of this process's rank on its machine,
            without a launcher the first one; `cuda:N` is that GPU.

    Raises:
        ModelError: torch does not know the device, or it is not there.
    """
    import torch

    asked, local_rank = device, int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto" and not torch.cuda.is_available():
        device = "cpu"
    elif device in ("auto", "cuda"):
        if 0 < torch.cuda.device_count() <= local_rank:
            raise ModelError(
                f"device: process {local_rank} of this machine needs a GPU of its own, torch sees "
                f"{torch.cuda.device_count()}; start as many processes as there are GPUs (--num_processes)"
            )
        device = f"cuda:{local_rank}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device: '{asked}' is not a device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device: '{asked}' was asked for, torch {torch.__version__} sees no such GPU; use device=cpu")
    return chosen


_FAST_FP16 = (7, 0)  # compute capability of Volta, the first with matrix units for fp16


def choose_precision(precision: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of matrix products on a device, and the reason in a few words.

    `auto` is bf16 if the hardware multiplies it. A CPU without AVX512-BF16 or AMX emulates it, about eight times slower
    than fp32, so it gets fp32. With AVX512-BF16 and no AMX, either may be faster: a product is measured in both.
    A GPU older than Ampere gets fp16 if it multiplies that fast, as Volta and Turing do.
    """
    import torch

    if precision != "auto":
        return getattr(torch, PRECISION_DTYPES[precision]), "asked for"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bf16"
        if torch.cuda.get_device_capability(device) >= _FAST_FP16:
            return torch.float16, "this GPU multiplies fp16, and not bf16"
        return torch.float32, "this GPU multiplies neither bf16 nor fp16 fast"
    if device.type == "cpu":
        # These probes are private in torch and absent from some builds; without them fp32 is the safe choice.
        if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
            return torch.bfloat16, "this CPU has AMX"
        if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
            return torch.float32, "this CPU has neither AMX nor AVX512-BF16"
        if bf16_time() > _FAR_SLOWER:
            return torch.float32, "this CPU's AVX512-BF16 is slower than fp32"
        return torch.bfloat16, "this CPU has AVX512-BF16"
    return torch.float32, f"nothing is known of bf16 on {device.type}"


# A Xeon whose AMX is hidden from its virtual machine has 1.5 to 1.8, and training took 1.5 times as long in bf16 there.
# The bound is away from 1, so that noise does not decide, and because bf16 takes half the memory.
_FAR_SLOWER = 1.25


@cache
def bf16_time() -> float:
    """The time that a product of matrices takes on a core of this CPU in bf16, divided by that in fp32.

    It is measured once, in a fifth of a second. Work of other processes is not counted.
    """
    import torch

    def seconds(dtype: torch.dtype) -> float:
        start = thread_time()
        torch.nn.functional.linear(rows[dtype], weights[dtype])
        return thread_time() - start

    dtypes = (torch.bfloat16, torch.float32)
    rows = {dtype: torch.ones(256, 1024, dtype=dtype) for dtype in dtypes}
    weights = {dtype: torch.ones(1024, 1024, dtype=dtype) for dtype in dtypes}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            times = [[seconds(dtype) for dtype in dtypes] for _ in range(8)]
    finally:
        torch.set_num_threads(threads)
    bf16, fp32 = (median(found) for found in zip(*times[1:], strict=True))  # the first ones compile kernels
    return float(bf16 / fp32)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name as in manifests, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of `mallopt` in glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make a process on Linux keep the memory that it frees, for scoring on a CPU; return whether that worked.

    The activations of a forest are blocks of many megabytes. By default the C library returns each to the system, which
    hands it out again as zeroed pages; that takes a quarter of the time of scoring. With this setting the process keeps
    its peak memory, and a few gaps that aligned blocks leave. Source: mallopt(3). torch reads the environment variable
    at its first allocation, and requests huge pages.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all([mallopt(which, _NEVER) for which in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)])


def bound_kernel_cache() -> None:
    """Keep 256 compiled products of matrices instead of 1,024; call it before the first one is computed.

    On CPUs, oneDNN compiles a product for each shape, and forests of hundreds of sizes come up, so a process that
    scores for long would grow by a gigabyte. A forward pass needs about ten, and up to three more for each tree. There
    are two caches: "Primitive Cache" in oneDNN's developer guide, and torch's own in front of it (`ideep`,
    lru_cache.hpp).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "256")


def grow_segments() -> None:
    """Let torch's memory on GPUs grow in place; call it before torch is imported.

    Forests differ in size. By default the gaps that smaller ones leave are not joined, so a GPU can run out of memory
    while a part of it is free. Source: "Optimizing memory usage" in torch's notes on CUDA semantics. Settings of the
    user's own are kept; only Linux has segments that grow. Older versions of torch know the second name only.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if sys.platform == "linux" and not any(name in os.environ for name in names):
        os.environ |= dict.fromkeys(names, "expandable_segments:True")


def free_gpu() -> None:
    """Give the memory that torch keeps for later back to the GPU, for another process."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def gpu_memory(device: str = "auto") -> int | None:
    """Bytes of memory of the GPU that `choose_device` gives; None on a CPU.

    Raises:
        ModelError: The device is not there.
    """
    import torch

    chosen = choose_device(device)
    return int(torch.cuda.get_device_properties(chosen).total_memory) if chosen.type == "cuda" else None


def gpu_peak() -> str:
    """The end of a message: the most memory that this process has used on its GPU, of how much; empty without one."""
    import torch

    if not torch.cuda.is_available():
        return ""
    used, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties().total_memory
    return f"; the peak was {used / 2**30:.1f} of {total / 2**30:.1f} GiB"


def leave_processes() -> None:
    """Leave the group of processes that trained together, if there is one.

    A process that ends while threads of the group still run may be aborted after its work: pytorch/pytorch#190489.
    """
    import torch.distributed as processes

    if processes.is_available() and processes.is_initialized():
        processes.destroy_process_group()


def other_gpus(device: torch.device) -> str | None:
    """The note to print if a process without a launcher leaves GPUs unused; else None.

    Args:
        device: The device of this process.
    """
    import torch

    count = torch.cuda.device_count()
    if device.type != "cuda" or count < 2 or process_count() > 1:
        return None
    name = torch.cuda.get_device_name(device)
    return (
        f"{count} GPUs are visible; one process uses one of them, {device} ({name}). CUDA_VISIBLE_DEVICES=N chooses "
        f"another; `accelerate launch --multi_gpu --num_processes {count} --no_python erc-llm train ...` uses all"
    )


_SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED"}


def check_launcher() -> None:
    """Refuse launcher modes that split a model over processes: each process trains on a whole copy of the model.

    Raises:
        ConfigError: This process was started in such a mode.
    """
    for variable, mode in _SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("true", "1", "yes"):
            raise ConfigError(
                f"accelerate: distributed_type {mode} was found ({variable}={os.environ[variable]}), expected "
                "MULTI_GPU or NO, since every process trains on a whole copy of the model; start with "
                "`accelerate launch --multi_gpu --num_processes N --no_python erc-llm train ...`, and use "
                "model.quantisation=nf4 where a GPU is too small for the model"
            )


def usable_cores() -> int:
    """Number of cores that this process may use; a batch system may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Launchers set these variables for every process. `accelerate.PartialState` reads the same ones, but it also creates
# the group of processes on a device of its own choice, and imports torch; rank and count are needed before both.
def process_rank() -> int:
    """This process's number among those of one training run, 0 for the main one."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
