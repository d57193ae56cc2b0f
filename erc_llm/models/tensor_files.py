"""Files of tensors: writes safetensors so that a full disk is one kind of error.

Input: tensors by name. Output: a file.
Does not depend on: what the tensors are, where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file as PyTorch's.

    Raises:
        OSError: It cannot be written; for a full disk too, which safetensors reports by an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
