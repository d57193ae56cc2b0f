"""Which GPU and precision a process takes, which launchers are refused, and what becomes of memory that it frees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from erc_llm.errors import ConfigError, ModelError
from erc_llm.models import devices
from erc_llm.models.devices import check_launcher, choose_device, choose_precision, grow_segments, other_gpus

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


SHAPES = """
import os, sys
import torch
from erc_llm.models.devices import bound_kernel_cache
if len(sys.argv) > 1:
    bound_kernel_cache()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
weight = torch.ones(96, 64, dtype=torch.bfloat16)
largest = torch.ones(1000, 64, dtype=torch.bfloat16)
torch.nn.functional.linear(largest, weight)
before = resident()
for rows in range(1, 1000):
    torch.nn.functional.linear(largest[:rows], weight)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in /proc what is resident")
def test_products_of_many_shapes_take_no_more_and_more_memory() -> None:
    """Each shape is compiled; without a bound the first thousand of them are kept."""
    grown = []
    for arguments in ((), ("bounded",)):
        command = [sys.executable, "-c", SHAPES, *arguments]
        environment = {key: value for key, value in os.environ.items() if "CACHE_CAPACITY" not in key}
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        grown.append(int(found.stdout))
    if grown[0] < 20:
        pytest.skip(f"this CPU keeps {grown[0]} MB only for a thousand shapes")
    assert grown[1] < grown[0] / 2


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Example GPU {torch.device(device).index}")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda:0"), ("0", "cuda:0"), ("1", "cuda:1")])
def test_each_process_of_a_launcher_takes_the_gpu_of_its_rank(
    device: str, rank: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device(device) == torch.device(expected)


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ModelError, match=r"process 2 .* torch sees 2; .*--num_processes"):
        choose_device("cuda")


@pytest.mark.usefixtures("two_gpus")
def test_a_process_that_leaves_a_gpu_unused_names_the_one_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    note = other_gpus(torch.device("cuda:0"))
    assert note is not None
    assert "2 GPUs are visible" in note
    assert "cuda:0 (Example GPU 0)" in note
    assert "accelerate launch --multi_gpu --num_processes 2" in note
    assert other_gpus(torch.device("cpu")) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert other_gpus(torch.device("cuda:0")) is None


@pytest.mark.parametrize("mode", ["FSDP", "DEEPSPEED"])
def test_modes_that_cut_the_model_into_pieces_are_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher()
    monkeypatch.setenv(f"ACCELERATE_USE_{mode}", "true")
    with pytest.raises(ConfigError, match=f"distributed_type {mode} was found .* expected MULTI_GPU or NO"):
        check_launcher()
    monkeypatch.setenv(f"ACCELERATE_USE_{mode}", "false")
    check_launcher()


@pytest.mark.parametrize(
    ("capability", "expected", "reason"),
    [
        ((9, 0), torch.bfloat16, "multiplies bf16"),
        ((8, 0), torch.bfloat16, "multiplies bf16"),
        ((7, 5), torch.float16, "multiplies fp16, and not bf16"),  # T4
        ((7, 0), torch.float16, "multiplies fp16, and not bf16"),  # V100
        ((6, 1), torch.float32, "neither bf16 nor fp16"),
    ],
)
def test_auto_precision_of_a_gpu_is_by_its_generation(
    capability: tuple[int, int], expected: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    dtype, found = choose_precision("auto", torch.device("cuda:0"))
    assert dtype is expected
    assert reason in found
    assert choose_precision("fp16", torch.device("cpu"))[0] is torch.float16


AMX, AVX512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"  # probes of torch.cpu


@pytest.mark.parametrize(
    ("units", "time", "expected", "reason"),
    [
        ([AMX, AVX512], None, torch.bfloat16, "has AMX"),
        ([AVX512], 0.6, torch.bfloat16, "has AVX512-BF16"),
        ([AVX512], 1.6, torch.float32, "AVX512-BF16 is slower than fp32"),
        ([], None, torch.float32, "neither AMX nor AVX512-BF16"),
    ],
)
def test_auto_precision_is_bf16_only_where_the_cpu_multiplies_it_fast(
    units: list[str], time: float | None, expected: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for probe in (AMX, AVX512):
        monkeypatch.setattr(torch.cpu, probe, lambda probe=probe: probe in units, raising=False)
    monkeypatch.setattr(devices, "bf16_time", lambda: time)
    dtype, found = choose_precision("auto", torch.device("cpu"))
    assert dtype is expected
    assert found.endswith(reason)


def test_the_time_of_bf16_is_measured_on_one_thread_and_leaves_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before, multiply, seen = torch.get_num_threads(), torch.nn.functional.linear, []

    def product(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_num_threads(), rows.dtype))
        rows = rows.float()
        for _ in range(5 if seen[-1][1] is torch.bfloat16 else 1):
            made = multiply(rows, weights.float())
        return made

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert devices.bf16_time.__wrapped__() > 2  # bf16 has five products here
    assert {threads for threads, _ in seen} == {1}
    assert {dtype for _, dtype in seen} == {torch.bfloat16, torch.float32}
    assert torch.get_num_threads() == before


def test_auto_precision_without_the_probes_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert choose_precision("auto", torch.device("cpu"))[0] is torch.float32


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize("own", [None, *ALLOCATOR])
def test_memory_segments_grow_unless_the_user_has_set_the_allocator(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "environ", {} if own is None else {own: "max_split_size_mb:128"})
    grow_segments()
    expected = dict.fromkeys(ALLOCATOR, "expandable_segments:True") if own is None else {own: "max_split_size_mb:128"}
    assert os.environ == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memory segments that grow")
def test_the_command_line_sets_the_allocator_before_torch_is_imported() -> None:
    script = (
        "import os, sys; import erc_llm.cli.app as cli; cli.app = lambda **_: print('torch' in sys.modules); "
        "cli.main(); import torch; print(os.environ['PYTORCH_ALLOC_CONF'])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "expandable_segments:True"]
    assert not done.stderr, "torch does not warn of a name"
