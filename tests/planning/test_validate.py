"""Validation as a whole: many faults in one report, shipped configurations without any, and what is left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import constants

from erc_llm.planning.findings import Finding, Report
from erc_llm.recipes.validate import validate
from tests.gated_hub import refusing_files
from tests.hub_server import serve_hub
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config

SHARDS = {"config.json": 600, "model-00001-of-00002.safetensors": 9 * 10**9, "model-00002-of-00002.safetensors": 10**9}


def only(report: Report, where: str) -> Finding:
    found = [finding for finding in report.findings if finding.where == where]
    assert len(found) == 1, report.findings
    return found[0]


def _twelve_faults(folder: Path, corpus: Path) -> Path:
    """A configuration with faults in its fields and files."""
    bad = folder / "bad"
    bad.mkdir()
    (bad / "dev.jsonl").write_text((corpus / "dev.jsonl").read_text())
    train = (corpus / "train.jsonl").read_text().replace('"label": "Mad"', '"label": "Grumpy"')
    (bad / "train.jsonl").write_text(train)
    (folder / "a-file").write_text("not a folder")
    path = folder / "faulty.yaml"
    sections = {
        "name": "faulty",
        "output": str(folder / "a-file" / "runs"),
        "corpus": {"path": str(bad), "heal_from": str(folder / "no-originals")},
        "prompt": {"template": "no-such.jinja"},
        "state": {"source": "predicted", "confusion": str(folder / "no.parquet")},
        "model": {"base": "someone/gated", "device": "cuda", "precision": "bf16", "quantisation": "nf4"},
        "lora": {"rnk": 8},
        "training": {"epochs": -1},
    }
    path.write_text(json.dumps(sections))  # JSON is YAML
    return path


@pytest.fixture
def odd_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old PEFT, and no bitsandbytes."""
    really = metadata.version

    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise metadata.PackageNotFoundError(name)
        return "0.5.0" if name == "peft" else really(name)

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.usefixtures("full_disk", "old_gpu", "odd_libraries", "hub_cache")
def test_twelve_faults_are_in_one_report_with_their_remedies(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _twelve_faults(tmp_path, corpus)
    with refusing_files("someone/gated", SHARDS) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        report = validate(path)
    errors = {finding.where: finding for finding in report.of("error")}
    expected = {
        "lora.rnk": ("no such field", "erc-llm config"),
        "training.epochs": ("greater than 0", "erc-llm config"),
        "corpus.labels": ("'Grumpy' (", "corpus.labels.spellings"),
        "corpus.heal_from": ("no-originals", "leave it out"),
        "prompt.template": ("no-such.jinja", "packaged template"),
        "state.confusion": ("no.parquet", "erc-llm predict RUN --split selection"),
        "libraries: peft": ("peft 0.5.0 is installed", "pip install 'peft"),
        "libraries: bitsandbytes": ("not installed", "pip install 'erc-llm[qlora]'"),
        "model.precision": ("Tesla T4 (compute capability 7.5)", "model.precision=auto"),
        "output": ("a-file: cannot be written", "set output="),
        "HF_HOME": ("expected 10.0 GB for the download", "set HF_HOME"),
        "model.base": ("is gated", "accept its licence on"),
    }
    assert len(expected) == 12
    assert errors.keys() == expected.keys(), report.findings
    for where, (found, remedy) in expected.items():
        assert found in errors[where].found
        assert remedy in errors[where].remedy
    assert report.exit_code == 2
    assert "train.jsonl:" in errors["corpus.labels"].found  # the first place
    assert "not checked" in {finding.where for finding in report.of("note")}
    assert all(finding.remedy for finding in (*report.of("error"), *report.of("warning")))


@pytest.mark.smollm2
@pytest.mark.parametrize("name", ["sample", "smollm2-135m"])
def test_shipped_configurations_are_clean(name: str, tmp_path: Path) -> None:
    report = validate(name, ["corpus.path=sample", f"output={tmp_path / 'runs'}"])
    assert [finding for finding in report.findings if finding.severity != "note"] == []
    assert report.exit_code == 0
    assert len(report.prompts) == 3
    assert not (tmp_path / "runs").exists()


def test_a_good_configuration_is_clean_and_shows_three_trained_answers(config: Path, tmp_path: Path) -> None:
    report = validate(config)
    assert [finding for finding in report.findings if finding.severity != "note"] == []
    assert len(report.prompts) == 3
    for prompt in report.prompts:
        assert prompt.ends
        assert prompt.tokens[-1] == "<|im_end|>"
        assert prompt.before.endswith("<|im_start|>assistant\n")
    assert len({prompt.tokens for prompt in report.prompts}) == 3  # three labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]  # nothing was written


def test_no_weights_are_read(config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llama.folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    assert validate(config_for(folder)).exit_code == 0


def test_faults_of_the_model_are_in_one_report(
    config_for: Callable[..., Path], tiny_llama2_base: TinyModel, tmp_path: Path, full_disk: None
) -> None:
    """Sliding windows, missing shards, no chat template, no layers for the adapter."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llama2_base.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "config.json").read_text())
    sliding = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 512}
    (folder / "config.json").write_text(json.dumps(content | sliding))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    report = validate(config_for(folder, lora={"target_modules": ["no_such_proj"]}))
    told = "\n".join(f"{finding.where}: {finding.found}" for finding in report.of("error"))
    assert "model.base: the model's attention uses 'sliding_window'" in told
    assert "names are missing: model-00002-of-00002.safetensors" in told
    assert "prompt.template: prompt 'instruct' needs a chat template and this tokenizer has none" in told
    assert "lora.target_modules: Target modules" in told
    assert len(report.of("error")) == 4


def test_the_checkpoints_need_room(config: Path, full_disk: None) -> None:
    finding = only(validate(config), "output")
    assert "1 kB are free" in finding.found
    assert "3 checkpoints" in finding.found
    assert "another disk" in finding.remedy


def test_an_existing_run(config: Path, tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from erc_llm.recipes.train import train

    train(tiny_config(tiny_llama, corpus, tmp_path / "runs", training={"max_scenes": 2}), console=Console(quiet=True))
    partial = tmp_path / "runs" / "tiny" / ".x.1.partial"
    partial.touch()
    finding = only(validate(config), "name")
    assert "this run exists" in finding.found
    assert "name=OTHER" in finding.remedy
    assert "training.max_scenes" in only(validate(config, resume=True), "name").found
    assert validate(config, ["training.max_scenes=2"], resume=True).exit_code == 0
    assert partial.exists()  # validation changes nothing


def test_a_long_prompt_does_not_fit_the_context(config: Path) -> None:
    finding = only(validate(config, ["prompt.trunk_budget=4096"]), "prompt.trunk_budget")
    assert finding.severity == "error"
    assert "exceed the 4096 positions" in finding.found
    longer = ["prompt.trunk_budget=3900", "scoring.decode=free", "scoring.answer_tokens=500"]
    scoring = only(validate(config, longer), "scoring")
    assert "scoring.answer_tokens" in scoring.found


def test_a_launcher_that_splits_the_model(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    finding = only(validate(config), "accelerate")
    assert "FSDP" in finding.found
    assert "--multi_gpu" in finding.remedy


def test_a_gpu_that_is_too_small(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erc_llm.recipes.plan.gpu_memory", lambda device: 400 * 2**20)
    finding = only(validate(config), "GPU memory")
    assert finding.severity == "error"
    assert "GiB can be used" in finding.found
    assert finding.remedy
    monkeypatch.setattr("erc_llm.recipes.plan.gpu_memory", lambda device: 24 * 2**30)
    assert "GPU memory" not in {finding.where for finding in validate(config).findings}


def test_long_scenes_are_told(config: Path) -> None:
    report = validate(config, ["training.tokens_per_step=64", "prompt.trunk_budget=64"])
    assert "scenes with more tokens than this budget of 64" in only(report, "training.tokens_per_step").found
    assert report.exit_code == 0


def test_export_of_a_high_rank_and_of_embeddings(config: Path) -> None:
    assert only(validate(config, ["lora.rank=1024"]), "lora.rank").severity == "warning"
    finding = only(validate(config, ["lora.target_modules=[embed_tokens, q_proj]"]), "lora.target_modules")
    assert "`erc-llm export` would refuse this adapter" in finding.found
    assert "embed" in finding.found


def test_an_architecture_that_gguf_export_does_not_know_is_a_note(
    config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path / "qwen3"
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=700, num_key_value_heads=2, head_dim=16, **sizes))
    model.save_pretrained(folder)
    tiny_llama.tokenizer.save_pretrained(folder)
    report = validate(config_for(folder))
    assert report.exit_code == 0
    assert "GGUF export knows" in only(report, "export --format gguf").found


def test_a_conv1d_model_is_no_export(config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=700, n_embd=32, n_layer=1, n_head=2, n_positions=4096)).save_pretrained(
        folder
    )
    tiny_llama.tokenizer.save_pretrained(folder)
    assert "transposed weights" in only(validate(config_for(folder)), "lora.target_modules").found


def test_a_tokenizer_with_more_tokens_than_the_model(
    config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llama.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"vocab_size": 300}))
    finding = next(f for f in validate(config_for(folder)).of("error") if "embeddings" in f.found)
    assert "beyond the model's 300 embeddings" in finding.found


def test_the_configuration_of_a_baseline_and_none_at_all() -> None:
    assert "`erc-llm baseline emonet`" in only(validate("emonet"), "configuration").remedy
    assert "no such configuration file" in only(validate("no-such"), "configuration").found


def test_a_base_model_with_a_chat_template(
    config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """Qwen2.5's base models are like that: ChatML in the tokenizer, `<|endoftext|>` in the model's files."""
    for name in ("Some-7B", "Some-7B-Instruct"):
        folder = tmp_path / name
        folder.mkdir()
        for file in tiny_llama.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    finding = only(validate(config_for(tmp_path / "Some-7B")), "prompt.template")
    assert finding.severity == "warning"
    for part in ("'<|im_end|>'", "'<|endoftext|>'", "a guess from names and files"):
        assert part in finding.found
    assert "prompt.template=plain" in finding.remedy
    assert validate(config_for(tmp_path / "Some-7B"), ["prompt.template=plain"]).of("warning") == ()
    assert validate(config_for(tmp_path / "Some-7B-Instruct")).of("warning") == ()


@pytest.mark.slow
def test_a_model_of_the_hub_is_checked_without_its_weights(config: Path, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its address and offline switch once, at import."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "erc_llm", "validate", str(config), "model.base=someone/tiny"]
    with serve_hub("someone/tiny", tiny_llama.folder) as (address, asked):
        environment |= {"HF_ENDPOINT": address, "TRANSFORMERS_OFFLINE": "0", "COLUMNS": "200"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    assert "of weights of 'someone/tiny' will be downloaded" in done.stdout
    assert done.stdout.count("[<|im_end|>]") == 3
    assert not any("model.safetensors" in line for line in asked)
