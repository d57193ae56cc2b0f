"""llama.cpp's own server on exported files: the labels of local decoding, and no row lost or doubled by a kill."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from benchmarks.commands import command_line
from benchmarks.llama_server import installed, llama_server
from benchmarks.served import run_killed
from erc_llm.corpus import read_sample
from erc_llm.export.gguf_model import write_gguf
from erc_llm.export.lora import Lora
from erc_llm.models.loading import base_folder, load_tokenizer
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.runs.directory import Run
from tests.command_line import Command
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="pip install 'erc-llm[llamacpp]'"),
]


def base_as_gguf(base: Path, file: Path) -> Path:
    """The base model without an adapter."""
    write_gguf(base, Lora.none(base), file, name="base", stored="f16")
    return file


def labels_alike(served: Predictions, other: Predictions) -> float:
    """The share of targets with the same label."""
    assert served.keys == other.keys
    assert len(set(served.keys)) == len(served)
    assert served.invalid is not None
    assert not served.invalid.any()
    return float(np.mean([a == b for a, b in zip(served.predicted, other.predicted, strict=True)]))


def test_both_served_forms_give_the_same_labels(
    finished: Run, corpus: Path, tiny_llama: TinyModel, tmp_path: Path, erc: Command
) -> None:
    """A random model is no measure against local decoding: a grammar allows every tokenisation of a label."""
    tables = []
    for form in ("gguf", "gguf-lora"):
        export, out = tmp_path / form, tmp_path / f"{form}.parquet"
        named = ("--base", "example/tiny", "--licence", "apache-2.0")
        assert erc("export", finished.folder, "--format", form, "--to", export, *named).code == 0
        (file,) = export.glob("*.gguf")
        base = base_as_gguf(tiny_llama.folder, tmp_path / "base.gguf")
        model, adapter = (file, None) if form == "gguf" else (base, file)
        with llama_server(model, tmp_path / "log", adapter=adapter, slots=2) as url:
            asked = ("--endpoint", f"{url}/v1", "--model", "m", "--concurrency", "2", "--out", out)
            on_base = ("--set", f"model.base={tiny_llama.folder}")
            done = erc("predict", export, corpus, "--split", "dev", *on_base, *asked)
        assert done.code == 0, done.err
        assert "kind of answers: grammar (llama.cpp)" in done.out
        tables.append(read_predictions(out))
    assert len(tables[0]) == 9
    assert labels_alike(*tables) > 0.75  # in 16 bits


@pytest.mark.smollm2
def test_llama_cpp_reads_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    folder = base_folder("smollm2-135m-instruct")
    tokenizer = load_tokenizer("smollm2-135m-instruct")
    texts = [u.text for d in read_sample().split("test") for u in d.utterances]
    texts += [
        "",
        " ",
        "3.14 and 2718",
        "Zoë — “naïve”\n\n\tCafé?",
        "😀 ok",
        "It's I'll we've",
        "a  b   c",
        "<|im_end|> no",
    ]
    with llama_server(base_as_gguf(folder, tmp_path / "base.gguf"), tmp_path / "log") as url:
        for text in texts:
            asked = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
            request = urllib.request.Request(f"{url}/tokenize", asked, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)["tokens"]
            expected = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert found == expected, text


@pytest.mark.smollm2
def test_a_killed_prediction_goes_on_where_it_was(tmp_path: Path, erc: Command) -> None:
    whole, broken, here = (tmp_path / f"{name}.parquet" for name in ("whole", "broken", "here"))
    model = base_as_gguf(base_folder("smollm2-135m-instruct"), tmp_path / "base.gguf")
    scenes = tmp_path / "test.jsonl"
    rows = [as_json(scene) for scene in read_sample().split("test")[:4]]
    scenes.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    predict = ("predict", "smollm2-135m", str(scenes), "--split", "test")
    with llama_server(model, tmp_path / "log", slots=2) as url:
        asked = ("--endpoint", f"{url}/v1", "--model", "m", "--concurrency", "2")
        done = erc(*predict, *asked, "--out", whole)
        assert done.code == 0, done.err
        half = len(read_predictions(whole)) // 2
        again = (*predict, *asked, "--out", str(broken))
        kept = run_killed(command_line(*again), broken, half)
        assert half <= kept < 2 * half
        assert not broken.exists()
        done = erc(*again)
    assert done.code == 0, done.err
    assert f"continuing with the {kept} answers" in " ".join(done.out.split())
    one, other = read_predictions(whole), read_predictions(broken)
    assert len(other) == 2 * half
    assert labels_alike(one, other) > 0.95
    assert erc(*predict, "--decode", "generate", "--out", here).code == 0
    assert labels_alike(one, read_predictions(here)) > 0.9
