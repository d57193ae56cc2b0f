"""The files of an export: weights in the wanted form, and the run's records without what only this machine has.

Input: a run, and the record of its export. Output: files in a folder.
Does not depend on: verification, the model card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from erc_llm.calibration.store import CALIBRATION
from erc_llm.corpus.datasets_folder import HUB
from erc_llm.errors import ModelError, RunError
from erc_llm.export.lora import read_lora
from erc_llm.export.merging import copy_files
from erc_llm.export.modelfile import MODELFILE, modelfile
from erc_llm.files import write_text
from erc_llm.models.hashes import file_sha256
from erc_llm.models.loading import HUB_ID
from erc_llm.models.tensor_files import save_tensors
from erc_llm.models.wheels import BASE_MODELS
from erc_llm.retrieval.store import NEIGHBOURS
from erc_llm.runs.directory import CONFIG, TEMPLATE, Run
from erc_llm.runs.exported import ExportRecord
from erc_llm.runs.manifest import write_manifest

if TYPE_CHECKING:
    from erc_llm.prompting.prompter import Prompter


def write_form(
    run: Run, record: ExportRecord, folder: Path, base: Path, precision: str, prompter: Prompter
) -> dict[str, str]:
    """Write the weights into an empty folder; returns their file names and hashes.

    Args:
        run: The run.
        record: The form, the type of the weights, and the base that the update is added to.
        folder: The folder.
        base: Folder of the base model.
        precision: Precision that the run computes in, such as `bfloat16`: that of the weights that NF4 quantises.
        prompter: The run's prompter, for the Modelfile.

    Raises:
        ModelError: The adapter or base model cannot be written in this form.
        OSError: The folder cannot be written.
    """
    import torch

    name = run.config.name
    nf4 = getattr(torch, precision) if record.from_base == "nf4" else None
    if record.form == "peft":
        _write_peft(run, record, folder)
    elif record.form == "merged":
        from erc_llm.export.merging import write_merged

        dtype = torch.bfloat16 if record.stored == "bf16" else torch.float16
        write_merged(base, read_lora(run.adapter), folder, dtype=dtype, nf4=nf4)
    elif record.form == "gguf":
        from erc_llm.export.gguf_model import write_gguf

        assert record.stored != "f32", "a merged file is never in fp32"
        file = folder / f"{name}-{record.stored}.gguf"
        write_gguf(base, read_lora(run.adapter), file, name=name, stored=record.stored, nf4=nf4)
        copy_files(base, folder)
        write_text(folder / MODELFILE, modelfile(prompter, file.name), RunError)
    else:
        from erc_llm.export.gguf_lora import write_gguf_lora

        write_gguf_lora(base, read_lora(run.adapter), folder / f"{name}-lora.gguf", name=name)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))
    return {path.name: file_sha256(path) for path in files}


def _write_peft(run: Run, record: ExportRecord, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from erc_llm.models.adapters import CONFIG as ADAPTER_CONFIG
    from erc_llm.models.adapters import WEIGHTS

    if record.stored == "f32":
        shutil.copyfile(run.adapter / WEIGHTS, folder / WEIGHTS)
    else:
        dtype = torch.bfloat16 if record.stored == "bf16" else torch.float16
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(run.adapter / WEIGHTS).items()}
        save_tensors(tensors, folder / WEIGHTS)
    config = json.loads((run.adapter / ADAPTER_CONFIG).read_text("utf-8"))
    config |= {"base_model_name_or_path": record.base, "inference_mode": True}
    write_text(folder / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n", ModelError)


def public_corpus(path: str) -> str:
    """A corpus without the folder that it is in, on this machine or another; `hub:OWNER/NAME` as it is."""
    return path if path.startswith(HUB) else PurePath(path).name


def public_model(name: str | None) -> str | None:
    """A model or encoder without the folder that it is in; a hub id or alias as it is.

    A folder is a path that exists here, or one that cannot be a hub id, whether or not it exists.
    """
    if name is None or (HUB_ID.fullmatch(name) and not Path(name).exists()):
        return name
    return PurePath(name).name


def write_run(run: Run, base: str, folder: Path) -> None:
    """Write the run's records without paths of this machine; `base` is the hub id of its base model.

    Raises:
        RunError: A file cannot be written.
    """
    config, profile = run.config, run.config.profile
    named = BASE_MODELS.get(config.model.base)
    clean = config.model_copy(
        update={
            "output": "runs",
            "corpus": config.corpus.model_copy(
                update={
                    "path": public_corpus(config.corpus.path),
                    "heal_from": None,
                    "avoid": tuple(map(public_corpus, config.corpus.avoid)),
                }
            ),
            "lora": config.lora.model_copy(update={"start": config.lora.start and Path(config.lora.start).name}),
            "prompt": config.prompt.model_copy(update={"template": Path(config.prompt.template).stem}),
            "profile": profile.model_copy(
                update={"notes": None, "encoder": public_model(profile.encoder), "model": public_model(profile.model)}
            ),
            "retrieval": config.retrieval.model_copy(update={"encoder": public_model(config.retrieval.encoder)}),
            "state": config.state.model_copy(update={"confusion": None}),
            "model": config.model.model_copy(update={"base": config.model.base if named else base}),
        }
    )
    write_text(folder / CONFIG, clean.as_yaml(), RunError)
    write_manifest(folder, run.manifest)
    shutil.copyfile(run.template, folder / TEMPLATE)
    for name in (CALIBRATION, NEIGHBOURS):
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
