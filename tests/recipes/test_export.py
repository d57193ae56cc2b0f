"""`erc-llm export`: every form predicts as the run does, is verified elsewhere too, and appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file

import erc_llm
from erc_llm.corpus import read_corpus
from erc_llm.evaluation.report import evaluate
from erc_llm.export.probes import Drift, read_probes
from erc_llm.predictions import Predictions, read_predictions, write_predictions
from erc_llm.recipes.adapters import list_exports
from erc_llm.recipes.export import PROBES
from erc_llm.recipes.export_card import vllm_rank
from erc_llm.recipes.export_files import public_corpus, public_model, write_run
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.exported import check_weights, read_record
from erc_llm.runs.opened import open_run
from tests.command_line import Command, refused
from tests.export.adapters_for_tests import logits
from tests.forked import run_apart
from tests.tiny_models import TinyModel, random_llama, save_tiny
from tests.tiny_runs import tiny_config

NAMED = ("--base", "example/tiny", "--licence", "apache-2.0")
FORMS = ("peft", "merged", "gguf", "gguf-lora")


def export_apart(arguments: list[str], calls: int, counted: Path) -> None:
    """`erc-llm export`, killed at the n-th change of a file beside the target; how many there were goes to a file."""
    import sys

    from erc_llm import cli

    left = calls

    def hook(event: str, found: tuple[object, ...]) -> None:
        nonlocal left
        watched = event in ("os.rename", "os.mkdir", "shutil.copyfile") or (
            event == "open" and isinstance(found[1], str) and found[1][:1] in "wax"
        )
        if watched and isinstance(found[0], (str, os.PathLike)) and "exports" in str(found[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = ["erc-llm", "export", *arguments]
    try:
        cli.main()
    finally:
        counted.write_text(str(calls - left))


@pytest.fixture(scope="module")
def exports(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The finished run in every form; do not change them."""
    folder = tmp_path_factory.mktemp("exports")
    named = {"base": "example/tiny", "licence": "apache-2.0"}
    return {form: erc_llm.export_run(finished.folder, folder / form, form=form, **named) for form in FORMS}  # type: ignore[arg-type]


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are not loaded again, for tests of something else: that takes seconds."""
    monkeypatch.setattr("erc_llm.recipes.export.reload_apart", lambda *_, **__: Drift(PROBES, 0.0, 0.0, 0))


@pytest.mark.parametrize("form", FORMS)
def test_an_export_predicts_as_the_run_does(
    form: str, exports: dict[str, Path], finished: Run, corpus: Path, tiny_llama: TinyModel
) -> None:
    here = [f"model.base={tiny_llama.folder}"]
    scene = read_corpus(corpus).split("dev")[0]
    one = erc_llm.load(finished.folder).predict(scene)
    other = erc_llm.load(exports[form], overrides=here).predict(scene)
    record = read_record(exports[form])
    assert record is not None
    for a, b in zip(one, other, strict=True):
        found, expected = (np.array(list(line.probabilities.values())) for line in (b, a))
        assert np.abs(found - expected).max() <= record.tolerance
    assert record.form == form
    assert 0 <= record.largest_difference <= record.tolerance
    assert record.probes == len(read_probes(exports[form])) > 10
    assert set(record.weights) == {p.name for p in exports[form].iterdir() if p.suffix in (".safetensors", ".gguf")}


def test_an_adapter_in_16_bits_is_half_as_large_and_verified(
    exports: dict[str, Path], finished: Run, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    named = {"base": "example/tiny", "licence": "apache-2.0"}
    small = erc_llm.export_run(finished.folder, tmp_path / "small", form="peft", stored="f16", **named)  # type: ignore[arg-type]
    sizes = [(folder / "adapter_model.safetensors").stat().st_size for folder in (small, exports["peft"])]
    assert 0.45 < sizes[0] / sizes[1] < 0.6
    record = read_record(small)
    assert record is not None
    assert record.stored == "f16"
    assert 0 < record.largest_difference <= record.tolerance == 0.01
    one, other = (PeftModel.from_pretrained(tiny_llama.fresh_model(), str(f)) for f in (small, exports["peft"]))
    np.testing.assert_allclose(logits(one), logits(other), atol=0.05)


def test_plain_peft_loads_the_peft_form(exports: dict[str, Path], finished: Run, tiny_llama: TinyModel) -> None:
    one, other = (
        PeftModel.from_pretrained(tiny_llama.fresh_model(), str(f)) for f in (exports["peft"], finished.adapter)
    )
    np.testing.assert_array_equal(logits(one), logits(other))
    config = json.loads((exports["peft"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "example/tiny"


@pytest.mark.parametrize("form", FORMS)
def test_no_path_of_this_machine_leaves_it(
    form: str, exports: dict[str, Path], corpus: Path, tiny_llama: TinyModel
) -> None:
    for file in exports[form].iterdir():
        content = file.read_bytes()
        for path in (str(corpus.parent), str(tiny_llama.folder), str(exports[form].parent)):
            assert path.encode() not in content, file
    card = (exports[form] / "README.md").read_text()
    assert "base_model: example/tiny" in card
    assert "not for" in card.lower()


@pytest.mark.slow
def test_an_export_is_verified_again_elsewhere(
    exports: dict[str, Path], tiny_llama: TinyModel, tmp_path: Path, erc: Command
) -> None:
    moved = Path(shutil.copytree(exports["peft"], tmp_path / "moved"))
    done = erc("export", moved, "--verify", "--base", tiny_llama.folder)
    assert done.code == 0, done.err
    assert "0 of " in done.out
    weights = moved / "adapter_model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights)
    refused(erc("export", moved, "--verify", "--base", tiny_llama.folder), "has hash", "copy it again")
    record = json.loads((moved / "export.json").read_text())
    import hashlib

    record["weights"][weights.name] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (moved / "export.json").write_text(json.dumps(record))
    refused(erc("export", moved, "--verify", "--base", tiny_llama.folder), "computes something else", "accepted")


def test_an_export_that_drifts_leaves_nothing_behind(finished: Run, tmp_path: Path, erc: Command) -> None:
    merged = ("--to", tmp_path / "exports" / "x", "--format", "merged", "--tolerance", "1e-9")
    done = erc("export", finished.folder, *merged, *NAMED)
    refused(done, "as merged it computes something else", "accepted are differences up to 1e-09")
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_scored(
    finished: Run, exports: dict[str, Path], tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*_: object, **__: object) -> None:
        raise AssertionError("nothing should be scored")

    monkeypatch.setattr("erc_llm.recipes.export.score_probes", scored)
    target = ("--to", tmp_path / "new")
    refused(erc("export", finished.folder, *target), "is a folder of this machine", "--base")
    refused(erc("export", finished.folder, *target, "--base", str(tmp_path)), "is a folder of this machine")
    refused(erc("export", finished.folder, *target, "--base", "example/tiny"), "licence", "--licence")
    refused(erc("export", finished.folder, *target, *NAMED, "--set", "seed=3"), "training settings")
    refused(erc("export", exports["peft"], "--verify", "--to", tmp_path / "new"), "is an export already")
    refused(erc("export", exports["peft"], "--push", "me/tiny", "--format", "gguf"), "is an export already")
    refused(erc("export", exports["peft"], "--push", "me/tiny", "--base", "example/tiny"), "is an export already")
    refused(erc("export", exports["peft"], "--verify", "--set", "model.device=cpu"), "is an export already")
    refused(erc("export", exports["peft"], "--verify", "--probes", "3"), "is an export already")
    refused(erc("export", exports["merged"], "--verify", "--base", tmp_path), "has its base model in it (merged)")
    refused(erc("export", exports["peft"], *target, *NAMED), "is an export itself")
    refused(erc("export", finished.folder, "--to", exports["peft"], *NAMED), "exists already")
    refused(erc("export", finished.folder, *target, *NAMED, "--stored", "q8_0"), "--stored q8_0")
    refused(erc("export", finished.folder, *target, *NAMED, "--tolerance", "0"), "--tolerance 0", "above 0")
    refused(erc("export", finished.folder, *target, *NAMED, "--format", "merged", "--stored", "q8_0"), "bf16 or f16")
    refused(erc("export", finished.folder, *target, *NAMED, "--from-base", "nf4"), "--from-base nf4")
    refused(erc("export", tmp_path / "nothing", *target, *NAMED), "no such run directory")
    refused(erc("export", finished.folder, "--verify"), "is no export")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_kill_leaves_no_half_export(form: str, finished: Run, tmp_path: Path) -> None:
    target = tmp_path / "exports" / "tiny"
    arguments = [str(finished.folder), "--to", str(target), "--format", form, *NAMED]
    assert run_apart(export_apart, arguments, 10**9, tmp_path / "calls") == 0
    calls = int((tmp_path / "calls").read_text())
    assert calls > 10
    shutil.rmtree(target)
    for moment in sorted(random.Random(form).sample(range(1, calls + 1), 4)):
        assert run_apart(export_apart, arguments, moment, tmp_path / "calls") == -signal.SIGKILL
        assert not target.exists(), f"at file {moment} of {calls}"
        assert list_exports(target.parent) == []
    assert run_apart(export_apart, arguments, 10**9, tmp_path / "calls") == 0
    assert [path.name for path in target.parent.iterdir()] == ["tiny"]
    record = read_record(target)
    assert record is not None
    check_weights(target, record)


def test_an_adapter_that_other_programs_would_read_otherwise_is_refused_in_every_form(
    run: Path, tmp_path: Path, erc: Command
) -> None:
    config = run / "adapter" / "adapter_config.json"
    before = json.loads(config.read_text())
    for form in FORMS:
        for odd in ({"use_dora": True}, {"alpha_pattern": {"q_proj": 1}}, {"modules_to_save": ["lm_head"]}):
            config.write_text(json.dumps(before | odd))
            done = erc("export", run, "--to", tmp_path / "new", "--format", form, *NAMED)
            refused(done, "only plain LoRA can be exported")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", FORMS)
def test_another_base_than_the_runs_is_refused(
    form: str, finished: Run, tiny_llama: TinyModel, tmp_path: Path, erc: Command
) -> None:
    other = save_tiny(tmp_path / "other", tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=5))
    on_it = ("--set", f"model.base={other.folder}", "--format", form)
    refused(erc("export", finished.folder, "--to", tmp_path / "exports" / "x", *on_it, *NAMED), "base model", "has")
    assert not (tmp_path / "exports").exists()


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_a_full_disk_leaves_nothing_behind(
    form: str, finished: Run, tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the weights are written, and where the record is."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("export.write_form", "export.write_record"):
        with monkeypatch.context() as changed:
            changed.setattr(f"erc_llm.recipes.{place}", full)
            done = erc("export", finished.folder, "--to", tmp_path / "exports" / "x", "--format", form, *NAMED)
        refused(done, "exports/x: cannot be written: No space left on device", "nothing was left behind")
        assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.usefixtures("unverified")
def test_remains_of_a_killed_export_are_removed(finished: Run, tmp_path: Path, erc: Command) -> None:
    others = {".x-server", ".x-lora.unfinished-abc"}  # of other programs, and of an export to another name
    for name in (".x.unfinished-abcdefgh", *others):
        (tmp_path / "exports" / name).mkdir(parents=True)
    assert erc("export", finished.folder, "--to", tmp_path / "exports" / "x", *NAMED).code == 0
    assert {path.name for path in (tmp_path / "exports").iterdir()} == {"x", *others}


@pytest.mark.usefixtures("unverified")
def test_an_export_inside_its_run_is_opened_as_the_export(run: Path, erc: Command) -> None:
    assert erc("export", run, "--to", run / "mine", *NAMED).code == 0
    opened = open_run(run / "mine")
    assert opened.export is not None
    assert open_run(run / "adapter").export is None


@pytest.mark.usefixtures("unverified")
def test_exports_are_listed_with_what_was_measured(
    finished: Run, exports: dict[str, Path], corpus: Path, tmp_path: Path, erc: Command
) -> None:
    table = tmp_path / "dev.parquet"
    assert erc("predict", finished.folder, corpus, "--split", "dev", "--out", table).code == 0
    folder = tmp_path / "exports"
    done = erc("export", finished.folder, "--to", folder / "scored", "--table", table, *NAMED)
    assert done.code == 0, done.err
    shutil.copytree(exports["gguf"], folder / "incomplete")
    next((folder / "incomplete").glob("*.gguf")).unlink()
    shutil.copytree(exports["peft"], folder / "torn")
    (folder / "torn" / "export.json").write_text("{")
    changed = Path(shutil.copytree(exports["merged"], folder / "changed")) / "model.safetensors"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    (folder / "no-export").mkdir()
    score = f"{100 * evaluate(read_predictions(table)).headline.weighted_f1.value:.2f}"
    manifest = finished.manifest
    card = (folder / "scored" / "README.md").read_text("utf-8")
    assert f"| weighted f1 | {score} |" in card
    listed = erc("adapters", folder)
    assert listed.code == 0
    assert "no-export" not in listed.out
    for part in (
        "peft, f32",
        f"example/tiny, trained on {manifest.corpus_name} ({manifest.corpus_version}), weighted F1 {score} % on dev of",
        "verified by peft",
        ".gguf: missing; the export is not complete, copy it again",
        "export.json: damaged",
    ):
        assert part in listed.out, part
    assert listed.out.count("has hash") == listed.out.count("changed/model.safetensors: has hash") == 1
    other = tmp_path / "other.parquet"
    write_predictions(replace_run(read_predictions(table)), other)
    refused(erc("export", finished.folder, "--to", folder / "new", "--table", other, *NAMED), "is of run 0000")


def replace_run(table: Predictions) -> Predictions:
    return replace(table, info=replace(table.info, run_id="0000"))


def test_an_architecture_that_gguf_lacks_is_refused_before_anything_is_scored(
    finished: Run, tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*_: object, **__: object) -> None:
        raise AssertionError("nothing should be scored")

    monkeypatch.setattr("erc_llm.recipes.export.score_probes", scored)
    monkeypatch.setattr("erc_llm.recipes.export.read_config", lambda folder: {"model_type": "gpt_neox"})
    for form in ("gguf", "gguf-lora"):
        done = erc("export", finished.folder, "--to", tmp_path / "new", "--format", form, *NAMED)
        refused(done, "GGUF export knows")


def test_folders_of_this_machine_are_named_without_their_place(run: Path, tmp_path: Path, erc: Command) -> None:
    encoder = tmp_path / "encoders" / "mine"
    encoder.mkdir(parents=True)
    config = run / "config.yaml"
    fields = yaml.safe_load(config.read_text())
    fields["profile"]["encoder"] = str(encoder)
    config.write_text(yaml.safe_dump(fields))
    write_run(read_run(run), "example/tiny", tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["profile"]["encoder"] == "mine"
    assert public_corpus("hub:OWNER/NAME") == "hub:OWNER/NAME"
    assert public_corpus("/home/somebody/corpora/talks") == "talks", "a folder of another machine too"
    assert public_corpus("corpora/talks") == public_corpus("talks") == "talks"
    assert public_model("all-minilm-l6-v2") == "all-minilm-l6-v2"
    assert public_model("example/encoder") == "example/encoder"
    assert public_model("/home/somebody/encoders/mine") == public_model("~/mine") == "mine"
    assert public_model(None) is None


def test_vllm_is_told_the_rank_it_must_allow() -> None:
    assert [vllm_rank(rank) for rank in (1, 4, 16, 80, 512, 513)] == [1, 8, 16, 128, 512, None]


@pytest.mark.slow
def test_a_run_in_nf4_is_merged_into_the_base_with_the_smaller_drift(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    """The base in NF4 was another function in training: the original one drifts, what NF4 makes of it does not."""
    pytest.importorskip("bitsandbytes")
    from rich.console import Console

    from erc_llm.recipes.train import train

    config = tiny_config(tiny_llama, corpus, tmp_path, name="quantised", model={"quantisation": "nf4"})
    run = train(config, console=Console(quiet=True))
    found = {}
    for base in ("auto", "original", "nf4"):
        target = tmp_path / "exports" / base
        done = erc("export", run.folder, "--to", target, "--format", "merged", "--from-base", base, *NAMED)
        if base == "original" and done.code == 2:
            assert "computes something else" in done.err
            continue
        assert done.code == 0, done.err
        found[base] = read_record(target)
    assert found["auto"] is not None
    assert found["auto"].from_base == "nf4"
    assert found["auto"].largest_difference == found["nf4"].largest_difference  # type: ignore[union-attr]
    scene = read_corpus(corpus).split("dev")[0]
    alone = tmp_path / "exports" / "alone"
    assert erc("export", run.folder, "--to", alone, "--format", "gguf-lora", "--tolerance", "1", *NAMED).code == 0
    loaded = erc_llm.load(alone, overrides=[f"model.base={tiny_llama.folder}"]).loaded.model
    assert not any(type(module).__name__ == "Linear4bit" for module in loaded.modules()), "as llama.cpp has it"
    one, other = (erc_llm.load(folder).predict(scene) for folder in (run.folder, tmp_path / "exports" / "auto"))
    for a, b in zip(one, other, strict=True):
        for label, probability in a.probabilities.items():
            assert b.probabilities[label] == pytest.approx(probability, abs=0.05)
