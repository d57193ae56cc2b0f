"""Device checks: whether the GPU, its driver and the chosen precision can do what a configuration asks for.

Input: device and precision of a configuration. Output: findings.
Does not depend on: models, corpora. Memory is the subject of the memory plan.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from erc_llm.models.devices import choose_device, choose_precision, other_gpus
from erc_llm.planning.findings import Finding, Severity, collected

if TYPE_CHECKING:
    import torch


def check_device(device: str, precision: str) -> list[Finding]:
    """Findings about the device and precision of a configuration (`model.device`, `model.precision`)."""
    import torch

    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as complaints:  # torch warns of an old driver, and reports no GPU
        warnings.simplefilter("always")
        has_gpu = torch.cuda.is_available()
    if device != "cpu" and not has_gpu and (device == "cuda" or shutil.which("nvidia-smi")):
        findings.append(_no_gpu(device, [str(warning.message) for warning in complaints]))
        return findings
    with collected(findings, "model.device", "set model.device=auto, or start one process for each GPU"):
        chosen = choose_device(device)
        findings += _precision(chosen, precision)
        if unused := other_gpus(chosen):
            findings.append(Finding("note", "model.device", unused))
        if device == "auto" and chosen.type == "cpu":
            findings.append(Finding("note", "model.device", "no GPU was found; training would run on the CPU"))
    return findings


def _no_gpu(device: str, complaints: list[str]) -> Finding:
    """A GPU was asked for, or the driver's tools are installed, and torch cannot use one."""
    import torch

    severity: Severity = "error" if device == "cuda" else "warning"
    then = "" if device == "cuda" else "; training would run on the CPU"
    if torch.version.cuda is None:
        found = f"torch {torch.__version__} is a build without CUDA{then}"
        remedy = "install a CUDA build of torch (https://pytorch.org/get-started), or set model.device=cpu"
        return Finding(severity, "model.device", found, remedy)
    driver = _driver()
    if driver is None:
        remedy = "install the NVIDIA driver, or set model.device=cpu"
        return Finding(severity, "model.device", f"torch sees no GPU, and there is no nvidia-smi{then}", remedy)
    said = f" ({complaints[0].splitlines()[0]})" if complaints else ""
    found = f"nvidia-smi shows {driver}, and torch {torch.__version__} cannot use it{said}{then}"
    remedy = (
        f"update the NVIDIA driver to one for CUDA {torch.version.cuda}, or install a torch for an older CUDA; check "
        "that CUDA_VISIBLE_DEVICES is not empty"
    )
    return Finding(severity, "model.device", found, remedy)


def _driver() -> str | None:
    """Name and driver version of the first GPU as nvidia-smi prints them; None without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError) as error:
        return f"an error ({error})"
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        return f"an error ({lines[0] if lines else f'exit code {done.returncode}'})"
    name, _, version = lines[0].partition(",")
    return f"{name.strip()} with driver {version.strip()}"


def _precision(chosen: torch.device, precision: str) -> Iterator[Finding]:
    """Whether the device multiplies bf16, where it is asked for."""
    import torch

    if precision != "bf16":
        return
    best, reason = choose_precision("auto", chosen)
    if best is torch.bfloat16:
        return
    if chosen.type == "cuda":
        major, minor = torch.cuda.get_device_capability(chosen)
        found = (
            f"bf16 was asked for, and {torch.cuda.get_device_name(chosen)} (compute capability {major}.{minor}) has no "
            "units for it; expected 8.0 or higher"
        )
        yield Finding("error", "model.precision", found, "set model.precision=auto, or use an Ampere or newer GPU")
    else:
        found = f"bf16 was asked for, and {reason}"
        remedy = "set model.precision=auto, which is fp32 here: faster, in twice the memory"
        yield Finding("warning", "model.precision", found, remedy)
