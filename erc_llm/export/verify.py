"""Verification of an export in a process of its own: plain libraries load it and score its probes.

    python -m erc_llm.export.verify FOLDER --base BASE_FOLDER

prints one line of JSON: how far the scores are from the expected ones. Nothing of this package takes part in the
loading but the reader of a GGUF adapter, which no library here can load.

Input: an export folder, and the folder of its base model. Output: a `Drift`, as JSON.
Does not depend on: token trees, prompts, predictors.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from erc_llm.errors import RunError, UserError
from erc_llm.export.probes import Drift, drift, read_probes
from erc_llm.runs.exported import ExportRecord, check_weights, read_record


def verify(folder: Path, base: Path | None, on_original: bool = False) -> Drift:
    """Load an export plainly, and compare its scores of the probes with the expected ones.

    Args:
        folder: The export.
        base: Folder of its base model; not needed by merged forms.
        on_original: Load an adapter onto the base in its own precision, although it was trained on one in NF4.

    Raises:
        RunError: The export is damaged, or its base model is needed and not given.
        ModelError: A GGUF adapter does not fit the base model.
    """
    from erc_llm.export.plain_scores import plain_scores

    record = read_record(folder)
    if record is None:
        raise RunError(f"{folder}: is no export; `erc-llm export RUN` makes one")
    check_weights(folder, record)
    if on_original:
        record = replace(record, from_base="original")
    probes = read_probes(folder)
    return drift(probes, plain_scores(_load(folder, record, base), probes))


def _load(folder: Path, record: ExportRecord, base: Path | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dtype = getattr(torch, record.scored_in)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    if record.form == "merged":
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    if record.form == "gguf":
        name = next(iter(record.weights))
        # As `predict` loads it: an installed `kernels` package would keep the weights packed.
        options |= {"gguf_file": name, "quantization_config": GgufConfig(dequantize=True)}
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    if base is None:
        raise RunError(f"{folder}: form {record.form} needs the folder of its base model {record.base}")
    return _on_base(folder, record, base, options)


def _on_base(folder: Path, record: ExportRecord, base: Path, options: dict[str, Any]) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if record.from_base == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    model: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # its kernel in eval mode refuses some widths
            module.support_avx512bf16_for_cpu = False
    if record.form == "peft":
        return PeftModel.from_pretrained(model, str(folder)).eval()
    from erc_llm.export.gguf_lora import read_gguf_lora

    with tempfile.TemporaryDirectory() as adapter:
        read_gguf_lora(folder / next(iter(record.weights)), base, Path(adapter))
        return PeftModel.from_pretrained(model, adapter).eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the drift as JSON."""
    parser = argparse.ArgumentParser(prog="python -m erc_llm.export.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="export folder")
    parser.add_argument("--base", type=Path, help="folder of its base model")
    parser.add_argument("--on-original", action="store_true", help="load an adapter onto the base without NF4")
    options = parser.parse_args(arguments)
    try:
        found = verify(options.folder, options.base, options.on_original)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
