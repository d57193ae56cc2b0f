"""GPU, driver and precision, on machines that monkeypatching makes up."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from erc_llm.models import devices
from erc_llm.planning import checks_device
from erc_llm.planning.checks_device import check_device


@pytest.fixture
def unused_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi shows a GPU, torch is a CUDA build and sees none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(checks_device.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    told = subprocess.CompletedProcess([], 0, "Tesla V100, 450.80.02\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)


def test_a_driver_that_is_too_old(unused_gpu: None) -> None:
    (asked,) = check_device("cuda", "auto")
    assert asked.severity == "error"
    assert "Tesla V100 with driver 450.80.02" in asked.found
    assert "update the NVIDIA driver to one for CUDA 13.0" in asked.remedy
    (auto,) = check_device("auto", "auto")
    assert auto.severity == "warning"
    assert "training would run on the CPU" in auto.found
    assert check_device("cpu", "auto") == []


def test_a_broken_nvidia_smi_is_quoted(unused_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = subprocess.CompletedProcess([], 9, "NVIDIA-SMI has failed: mismatch\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    assert "NVIDIA-SMI has failed: mismatch" in check_device("cuda", "auto")[0].found


def test_a_torch_without_cuda(unused_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = check_device("cuda", "auto")
    assert "a build without CUDA" in finding.found
    assert "CUDA build of torch" in finding.remedy


def test_no_gpu_at_all(unused_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(checks_device.shutil, "which", lambda _: None)
    assert "there is no nvidia-smi" in check_device("cuda", "auto")[0].found
    (note,) = check_device("auto", "auto")
    assert (note.severity, note.found) == ("note", "no GPU was found; training would run on the CPU")
    assert check_device("cpu", "auto") == []


def test_bf16_on_a_gpu_without_units_for_it(old_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_device("auto", "bf16")[0].severity == "error"
    assert check_device("auto", "auto") == []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert check_device("auto", "bf16") == []


def test_bf16_on_a_cpu_that_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    (finding,) = check_device("cpu", "bf16")
    assert finding.severity == "warning"
    assert finding.found.endswith("this CPU has neither AMX nor AVX512-BF16")
    assert devices.choose_precision("bf16", torch.device("cpu"))[0] is torch.bfloat16


def test_bf16_on_a_cpu_where_fp32_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(devices, "bf16_time", lambda: 1.6)
    (finding,) = check_device("cpu", "bf16")
    assert (finding.severity, finding.where) == ("warning", "model.precision")
    assert finding.found.endswith("this CPU's AVX512-BF16 is slower than fp32")
    monkeypatch.setattr(devices, "bf16_time", lambda: 0.6)
    assert check_device("cpu", "bf16") == []


def test_several_gpus_are_told(old_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (finding,) = check_device("auto", "auto")
    assert finding.severity == "note"
    assert "2 GPUs are visible" in finding.found
