"""Corpus, labels, notes, encoder and libraries: each wrong file is found, and the others are still read."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from erc_llm.config import RunConfig, load_config
from erc_llm.planning.checks_libraries import check_libraries
from erc_llm.planning.findings import Finding
from erc_llm.profiles.notes import NotesSource
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.validate import validate
from erc_llm.recipes.validate_inputs import read_inputs
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, write_corpus


def _found(config: Path, *overrides: str) -> list[Finding]:
    findings: list[Finding] = []
    read_inputs(load_config(config, overrides), findings)
    return [finding for finding in findings if finding.severity != "note"]


def test_all_unknown_labels_at_once(config: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    text = (corpus / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text.replace('"Mad"', '"Grumpy"').replace('"Sad"', '"Blue"'))
    findings: list[Finding] = []
    inputs = read_inputs(load_config(config, [f"corpus.path={folder}"]), findings)
    unknown = next(finding for finding in findings if finding.severity == "error")
    assert unknown.found.startswith("labels that are none of Joyful, Mad,")
    assert "'Grumpy' (" in unknown.found
    assert "'Blue' (" in unknown.found
    assert inputs.corpus is not None
    assert inputs.scenes  # the other checks still have scenes
    absent = next(finding for finding in findings if "training scenes is labelled" in finding.found)
    assert "Mad" in absent.found
    assert "Sad" in absent.found


def test_a_corpus_that_is_missing_or_broken(config: Path, tmp_path: Path) -> None:
    (finding,) = _found(config, f"corpus.path={tmp_path / 'nowhere'}")
    assert "no such file" in finding.found
    assert "docs/own-corpus.md" in finding.remedy
    (tmp_path / "train.jsonl").write_text('{"id": 3')
    assert "train.jsonl:1" in _found(config, f"corpus.path={tmp_path / 'train.jsonl'}")[0].found


def test_one_episode_is_too_few_to_hold_any_out(config: Path, tmp_path: Path) -> None:
    rows = [as_json(dialogue(number, 4)) for number in range(2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = validate(config, [f"corpus.path={tmp_path / 'train.jsonl'}"])
    assert ["cannot cut a selection split" in finding.found for finding in report.of("error")] == [True]
    assert len(report.prompts) == 3


def test_a_split_without_labels(config: Path, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    unlabelled = write_corpus(tmp_path / "unlabelled", labels=False)
    (folder / "dev.jsonl").write_bytes((unlabelled / "dev.jsonl").read_bytes())
    (finding,) = _found(config, f"corpus.path={folder}")
    assert (finding.severity, finding.found) == ("warning", "no utterance of the split dev is labelled")
    errors = [f.found for f in _found(config, f"corpus.path={unlabelled}") if f.severity == "error"]
    assert errors == ["no utterance of the split train is labelled", "no utterance of the split selection is labelled"]
    (folder / "train.jsonl").unlink()
    assert "there is no train split" in _found(config, f"corpus.path={folder}", "training.evaluations=0")[0].found


def test_a_class_that_never_occurs(config: Path, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    text = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text.replace('"Scared"', '"Mad"'))
    (finding,) = _found(config, f"corpus.path={folder}")
    assert finding.severity == "warning"
    assert "is labelled Scared; nothing is learned about it" in finding.found
    (finding,) = _found(config, f"corpus.path={folder}", "sampling.scheme=inverse_frequency")
    assert (finding.severity, finding.where) == ("error", "sampling.scheme=inverse_frequency")
    assert "sampling.allow_absent=true" in finding.remedy


def test_notes_of_another_source(config: Path, corpus: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    asked = ["profile.writer=llm", f"profile.notes={notes}", "profile.endpoint=http://127.0.0.1:9/v1"]
    (finding,) = _found(config, *asked)
    assert "training does not ask a server" in finding.found
    assert f"erc-llm profile {corpus} --out FILE" in finding.remedy
    assert _found(config, *asked[:2]) == []  # a local model writes them
    loaded = load_config(config)
    inputs = read_inputs(loaded, [])
    assert inputs.corpus is not None
    template = load_prompt("summary", ("system", "user")).sha256
    source = NotesSource(inputs.corpus.sha256, "m", template, 30).as_dict()
    notes.write_text(json.dumps(source) + "\n")
    assert _found(config, *asked) == []
    assert "another words" in _found(config, *asked, "profile.words=40")[0].found


def test_an_encoder_that_is_no_name(config: Path) -> None:
    (finding,) = _found(config, "profile.writer=lines", "profile.encoder=two words")
    assert finding.where == "profile.encoder"


def test_a_template_without_a_place_for_profiles(
    config_for: Callable[..., Path], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    template = tmp_path / "bare.jinja"
    blocks = {"system": "Label.", "line": "{{ name }}: {{ text }}\n", "question": "{{ name }}", "answer": "{{ label }}"}
    template.write_text("".join(f"{{% block {name} %}}{text}{{% endblock %}}" for name, text in blocks.items()))
    config = config_for(tiny_llama, prompt={"template": str(template)}, profile={"writer": "llm"})
    (finding,) = validate(config).of("error")
    assert "has no block `profile`" in finding.found


@pytest.mark.parametrize(
    ("extra", "fields"),
    [
        ("qlora", {"model": {"quantisation": "nf4"}}),
        ("tensorboard", {"training": {"report_to": ["tensorboard"]}}),
        ("endpoint", {"profile": {"writer": "llm", "endpoint": "http://127.0.0.1:9/v1"}}),
    ],
)
def test_optional_libraries_count_only_where_they_are_used(
    extra: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    really, library = metadata.version, {"qlora": "bitsandbytes", "endpoint": "openai"}.get(extra, extra)

    def version(name: str) -> str:
        return "0.0.1" if name == library else really(name)

    monkeypatch.setattr(metadata, "version", version)
    assert check_libraries(RunConfig()) == []
    (finding,) = check_libraries(RunConfig.model_validate(fields))
    assert finding.found.startswith(f"{library} 0.0.1 is installed, expected {library}")
    assert f"erc-llm[{extra}]" in finding.remedy


def test_a_logger_that_is_not_installed() -> None:
    (finding,) = check_libraries(RunConfig.model_validate({"training": {"report_to": ["wandb"]}}))
    assert finding.remedy == "pip install wandb, or leave it out of training.report_to"
