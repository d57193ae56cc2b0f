"""The public Python API: whole scenes, a live session that says the same, and runs that cannot be loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.build import build_model
from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import ConfigError, ModelError, RunError
from erc_llm.files import write_text
from erc_llm.models.adapters import attach_lora, save_adapter
from erc_llm.models.loading import LoadedModel
from erc_llm.predictions import Correction, Decision, PriorShift, Scaling
from erc_llm.predictor import LabelledUtterance, Predictor, load
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.predict import predict
from erc_llm.runs.manifest import Manifest, write_manifest
from erc_llm.runs.opened import Opened
from tests.prompting.scenes import SPEAKERS, dialogue_of, hostile_texts, scene
from tests.tiny_models import TinyModel

TOLERANCE = 1e-4
LINES = [
    ("Mara Lind", "Who left the window open?"),
    ("Tomas", "I did. The smoke had to go somewhere."),
    ("Mara Other", "It is freezing in here."),
    (EVERYONE, "Oh!"),
    ("Tomas", "You could have woken me, and you did not."),
]


def config_of(tiny: TinyModel, **sections: Any) -> RunConfig:
    model = {"base": str(tiny.folder), "precision": "fp32", "device": "cpu"}
    return RunConfig.model_validate({"model": model} | sections)


@pytest.fixture(scope="module", params=["chatml", "llama2", "base"])
def tiny(
    request: pytest.FixtureRequest, tiny_llama: TinyModel, tiny_llama2_style: TinyModel, tiny_llama2_base: TinyModel
) -> TinyModel:
    return {"chatml": tiny_llama, "llama2": tiny_llama2_style, "base": tiny_llama2_base}[request.param]


@pytest.fixture(scope="module")
def loaded(tiny: TinyModel) -> LoadedModel:
    return build_model(config_of(tiny))


def predictor_of(
    tiny: TinyModel, loaded: LoadedModel, trunk_budget: int = 2048, tokens: int = 4096, trunk_lines: int | None = None
) -> Predictor:
    template = "instruct" if tiny.tokenizer.chat_template else "plain"
    prompt = {"template": template, "trunk_budget": trunk_budget, "trunk_lines": trunk_lines}
    return Predictor(Opened(config_of(tiny, prompt=prompt, scoring={"tokens_per_forest": tokens})), loaded)


def say_all(predictor: Predictor, dialogue: Dialogue) -> list[LabelledUtterance]:
    session = predictor.live()
    return [session.say(u.speakers, u.text) for u in dialogue.utterances]


def assert_same(live: list[LabelledUtterance], batch: list[LabelledUtterance]) -> None:
    assert len(live) == len(batch)
    for ours, theirs in zip(live, batch, strict=True):
        assert (ours.utterance.text, ours.speaker, ours.label) == (theirs.utterance.text, theirs.speaker, theirs.label)
        assert ours.log_likelihoods == pytest.approx(dict(theirs.log_likelihoods), abs=TOLERANCE, rel=0)
        assert ours.probabilities == pytest.approx(dict(theirs.probabilities), abs=TOLERANCE, rel=0)


@pytest.mark.parametrize(("limits", "windows"), [({}, 1), ({"trunk_budget": 64}, 3), ({"trunk_lines": 4}, 3)])
def test_a_live_session_equals_batch(
    tiny: TinyModel, loaded: LoadedModel, limits: dict[str, int], windows: int
) -> None:
    predictor = predictor_of(tiny, loaded, **limits)
    dialogue = scene(*[(who, f"{text} {k}") for k, (who, text) in enumerate(LINES * 2)])
    assert len(predictor.prompter.trees(dialogue, "all")) >= windows
    assert_same(say_all(predictor, dialogue), predictor.predict(dialogue))


@pytest.mark.parametrize("limits", [{}, {"trunk_budget": 64}, {"trunk_lines": 4}])
def test_lines_that_are_only_heard_change_no_later_label(tiny_llama: TinyModel, limits: dict[str, int]) -> None:
    predictor = predictor_of(tiny_llama, chatml_predictor(tiny_llama).loaded, **limits)
    dialogue = scene(*[(who, f"{text} {k}") for k, (who, text) in enumerate(LINES * 2)])
    session, lines = predictor.live(), [(u.speakers, u.text) for u in dialogue.utterances]
    live = [session.say(*line) for line in lines[:2]]
    session.hear(lines[2:8])
    live += [session.say(*line) for line in lines[8:]]
    batch = predictor.predict(dialogue)
    assert_same(live, [*batch[:2], *batch[8:]])


@settings(max_examples=5, deadline=None)
@given(said=st.lists(st.tuples(st.sampled_from(SPEAKERS), hostile_texts()), min_size=1, max_size=6))
def test_a_live_session_equals_batch_whatever_is_said(tiny_llama: TinyModel, said: list[tuple[str, str]]) -> None:
    predictor = chatml_predictor(tiny_llama)
    assert_same(say_all(predictor, scene(*said)), predictor.predict(scene(*said)))


_CHATML: list[Predictor] = []


def chatml_predictor(tiny: TinyModel) -> Predictor:
    """One predictor with a small trunk budget for all examples; its model is only read."""
    if not _CHATML:
        _CHATML.append(predictor_of(tiny, build_model(config_of(tiny)), trunk_budget=64))
    return _CHATML[0]


CORRECTIONS = {
    "prior": Correction(PriorShift("corpus", (1 / 7,) * 7, (0.22, 0.11, 0.3, 0.09, 0.08, 0.07, 0.13))),
    "all": Correction(
        PriorShift("given", (0.2, 0.1, 0.1, 0.1, 0.2, 0.2, 0.1), (0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1)),
        Scaling(1.7, (0.3, -0.2, 0.1, 0.0, -0.5, 0.4, 0.2)),
        Decision("macro_f1", "inductive", (0.9, 1.3, 0.4, 2.0, 1.0, 1.5, 1.2), (0.1, 0.0, 0.2, 0.3, 0.0, 0.1, 0.1)),
    ),
}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_live_session_equals_batch_under_a_correction(tiny_llama: TinyModel, name: str) -> None:
    plain = chatml_predictor(tiny_llama)
    corrected = Predictor(Opened(plain.config), plain.loaded, correction=CORRECTIONS[name])
    dialogue = scene(*LINES)
    batch, raw = corrected.predict(dialogue), plain.predict(dialogue)
    assert_same(say_all(corrected, dialogue), batch)
    for ours, theirs in zip(batch, raw, strict=True):
        assert ours.log_likelihoods == pytest.approx(dict(theirs.log_likelihoods), abs=TOLERANCE, rel=0)
        assert max(abs(ours.probabilities[k] - theirs.probabilities[k]) for k in EMORYNLP.names) > 10 * TOLERANCE
    corpus = Corpus("one", "own", EMORYNLP, {"dev": (dialogue,)})
    table = predict(corrected, corpus, "dev")
    assert table.predicted == tuple(line.label for line in batch)
    assert table.probabilities is not None
    for row, line in zip(table.probabilities, batch, strict=True):
        assert row.tolist() == pytest.approx(list(line.probabilities.values()), abs=TOLERANCE, rel=0)
    assert Correction.of(table.info) == CORRECTIONS[name]


def test_what_was_said_before_counts_and_sessions_are_apart(tiny_llama: TinyModel) -> None:
    predictor = chatml_predictor(tiny_llama)
    first, second = predictor.live(), predictor.live()
    first.say("Mara", "Who left the window open?")
    second.say("Mara", "What a lovely morning!")
    one, other = (session.say("Tomas", "I did.") for session in (first, second))
    assert max(abs(one.log_likelihoods[k] - other.log_likelihoods[k]) for k in EMORYNLP.names) > 10 * TOLERANCE


def test_a_line_too_long_for_a_window_is_labelled_live_as_in_batch(tiny_llama: TinyModel) -> None:
    predictor = chatml_predictor(tiny_llama)
    long = " ".join(["freezing"] * 2000)
    dialogue = scene(("Mara", "Oh"), ("Tomas", long), ("Mara", "Hm"))
    assert_same(say_all(predictor, dialogue), predictor.predict(dialogue))


def test_a_small_forest_budget_changes_no_prediction(tiny: TinyModel, loaded: LoadedModel) -> None:
    dialogue = scene(*LINES)
    usual = predictor_of(tiny, loaded).predict(dialogue)
    assert_same(predictor_of(tiny, loaded, tokens=64).predict(dialogue), usual)


def test_a_prediction_says_what_it_is(tiny_llama: TinyModel) -> None:
    predictor = chatml_predictor(tiny_llama)
    lines = [Utterance("a", ("Mara", "Tomas"), "Oh", "Sad"), Utterance("b", ("Mara",), "Hm", target=False)]
    (only,) = predictor.predict(dialogue_of(lines))
    assert only.speaker == "Mara, Tomas"
    assert only.utterance.text == "Oh"
    assert tuple(only.probabilities) == tuple(only.log_likelihoods) == EMORYNLP.names
    assert only.label == max(only.probabilities, key=only.probabilities.__getitem__)
    assert sum(only.probabilities.values()) == pytest.approx(1)
    assert 0 < only.label_mass <= 1


def test_several_dialogues_keep_their_order(tiny_llama: TinyModel) -> None:
    predictor = chatml_predictor(tiny_llama)
    dialogues = [scene(*(LINES[k:] * 2)) for k in range(3)]
    progress: list[int] = []
    together = predictor.scores(dialogues, on_progress=progress.append)
    assert [[s.target for s in scores] for scores in together] == [list(d.targets) for d in dialogues]
    for dialogue, scores in zip(dialogues, together, strict=True):
        for one, alone in zip(scores, predictor.scores([dialogue])[0], strict=True):
            assert one.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=TOLERANCE, rel=0)
    assert progress == sorted(progress)
    assert progress[-1] == len(dialogues)


def test_a_model_that_reads_the_full_scene_refuses_to_go_live(tiny_llama: TinyModel) -> None:
    loaded = chatml_predictor(tiny_llama).loaded
    predictor = Predictor(Opened(config_of(tiny_llama, prompt={"context": "full"})), loaded)
    with pytest.raises(ConfigError, match=r"prompt\.context.*`past`.*`full`"):
        predictor.live()


def test_a_model_with_another_attention_is_no_predictor(tiny_llama: TinyModel) -> None:
    loaded = chatml_predictor(tiny_llama).loaded
    with pytest.raises(ModelError, match="sdpa"):
        Predictor(Opened(config_of(tiny_llama)), replace(loaded, model=tiny_llama.model))


# Loading.


@pytest.fixture(scope="module")
def run(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose adapter visibly changes the model."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    make_run(folder, tiny_llama)
    return folder


def make_run(folder: Path, tiny: TinyModel, sections: dict[str, Any] | None = None, **changed: Any) -> None:
    import torch

    config = config_of(tiny, name=folder.name, **(sections or {}))
    loaded = build_model(config)
    adapted = attach_lora(loaded.model, rank=2, alpha=4, dropout=0.0, seed=1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    folder.mkdir()
    save_adapter(adapted, folder / "adapter", base_model=loaded.reference)
    template = load_prompt(config.prompt.template)
    write_text(folder / "config.yaml", config.as_yaml(), RunError)
    write_text(folder / "prompt.jinja", template.source, RunError)
    fields = {
        "kind": "adapter", "run_id": "small", "status": "finished", "seed": 13, "context": "past",
        "labels": EMORYNLP.names, "neutral": "Neutral", "train_shares": (1 / 7,) * 7, "training_prior": (1 / 7,) * 7,
        "config_sha256": config.sha256, "corpus_name": "sample", "corpus_version": "own",
        "corpus_sha256": "0" * 64, "healed": False, "template_sha256": template.sha256,
        "base_model": loaded.reference, "base_model_sha256": loaded.weights_sha256, "versions": {}, "commit": None,
    }  # fmt: skip
    write_manifest(folder, Manifest(**(fields | changed)))


def test_a_run_is_loaded_with_its_adapter(run: Path, tiny_llama: TinyModel) -> None:
    import erc_llm

    predictor = erc_llm.load(run)
    assert predictor.run is not None
    assert predictor.run.folder == run
    dialogue = scene(*LINES)
    bare, tuned = (p.predict(dialogue)[0].log_likelihoods for p in (load(config_of(tiny_llama)), predictor))
    assert max(abs(bare[k] - tuned[k]) for k in EMORYNLP.names) > 10 * TOLERANCE
    from_adapter = load(run / "adapter").predict(dialogue)[0].log_likelihoods
    assert from_adapter == pytest.approx(dict(tuned), abs=1e-6)


def test_a_balanced_run_is_loaded_with_the_corpus_prior(tmp_path: Path, tiny_llama: TinyModel) -> None:
    import erc_llm

    shares = (0.22, 0.11, 0.3, 0.09, 0.08, 0.07, 0.13)
    make_run(tmp_path / "run", tiny_llama, train_shares=shares)
    expected = Correction(PriorShift("corpus", (1 / 7,) * 7, shares))
    assert erc_llm.load(tmp_path / "run").correction == expected
    assert erc_llm.load(tmp_path / "run", prior="none").correction == Correction()
    with pytest.raises(RunError, match=r"calibration\.json: no such file; make it with `erc-llm calibrate"):
        erc_llm.load(tmp_path / "run", calibration="run")


def test_other_runs_and_base_models_are_loaded_without_correction(run: Path, tiny_llama: TinyModel) -> None:
    assert load(run).correction == load(config_of(tiny_llama)).correction == Correction()
    with pytest.raises(ConfigError, match="base model alone"):
        load(config_of(tiny_llama), prior="corpus")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such run directory"),
        (lambda folder: folder.mkdir(), "not a run directory"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(RunError, match=message):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "broken JSON"), ("[]", "expected a JSON object"), ('{"format_version": 99}', "run format 99"),
     ('{"format_version": 1}', "seed: Field required")],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path: Path, run: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(RunError, match=message):
        load(tmp_path)


def test_another_base_model_is_refused(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "run", tiny_llama, base_model_sha256="f" * 64)
    with pytest.raises(ModelError, match="trained on a base model with hash ffffffffffff"):
        load(tmp_path / "run")


def test_a_missing_base_model_is_refused() -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load(RunConfig.model_validate({"model": {"base": "./no/such/folder"}}))


def test_a_run_without_its_adapter_is_refused(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "run", tiny_llama)
    for file in (tmp_path / "run" / "adapter").iterdir():
        file.unlink()
    with pytest.raises(ModelError, match="adapter"):
        load(tmp_path / "run")


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "run", tiny_llama, status="training")
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "run")


def test_a_run_trained_on_another_prompt_is_refused(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "run", tiny_llama, template_sha256="f" * 64)
    with pytest.raises(RunError, match="template"):
        load(tmp_path / "run")


# A run on another machine, and with a past.


def test_a_run_whose_base_model_moved_is_loaded_from_its_new_place(tmp_path: Path, tiny_llama: TinyModel) -> None:
    """The hash of the weights says that it is the same one; device and precision are this machine's as well."""
    old = replace(tiny_llama, folder=Path(shutil.copytree(tiny_llama.folder, tmp_path / "old")))
    make_run(tmp_path / "run", old)
    expected = load(tmp_path / "run").predict(scene(*LINES))
    new = (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(ModelError, match="no such folder"):
        load(tmp_path / "run")
    moved = load(tmp_path / "run", overrides=[f"model.base={new}", "model.device=cpu", "model.precision=fp32"])
    assert_same(moved.predict(scene(*LINES)), expected)
    with pytest.raises(ConfigError, match=r"lora\.rank=8.*cannot be overridden"):
        load(tmp_path / "run", overrides=["lora.rank=8"])


PROFILES: dict[str, Any] = {"profile": {"writer": "lines", "budget": 24}}


def test_a_run_with_profiles_is_not_loaded_without_a_past_by_mistake(tmp_path: Path, tiny_llama: TinyModel) -> None:
    """Silently, it would describe everybody as a stranger, which it seldom saw in training."""
    make_run(tmp_path / "run", tiny_llama, PROFILES)
    with pytest.raises(ConfigError, match=r"profile\.writer=lines.*past=erc_llm\.read_corpus.*`none`"):
        load(tmp_path / "run")
    past = Corpus("past", "own", EMORYNLP, {"train": (replace(scene(*LINES), id="earlier"),)})
    texts = {}
    for name, given_past in (("strangers", "none"), ("known", past)):
        prompter = load(tmp_path / "run", given_past).prompter
        ids = prompter.trees(scene(*LINES), "none")[0].token_ids
        texts[name] = prompter.frame.encoder.text(ids.tolist())
    assert texts["strangers"].count("Not seen before.") == 3
    assert "Not seen before." not in texts["known"]
    assert '"Who left the window open?"' in texts["known"]


def test_a_live_session_has_the_profiles_of_the_dialogue_that_it_is(tiny_llama: TinyModel) -> None:
    """In a corpus without episodes a dialogue's id is its place in time."""
    scenes = tuple(replace(scene(*LINES), id=f"s{k}") for k in range(3))
    past = Corpus("past", "own", EMORYNLP, {"train": scenes}, order=("s0", "s1", "s2"))
    predictor = Predictor(Opened(config_of(tiny_llama, **PROFILES)), chatml_predictor(tiny_llama).loaded, past)
    for dialogue in scenes[:2]:
        session = predictor.live(dialogue.id)
        live = [session.say(u.speakers, u.text) for u in dialogue.utterances]
        assert_same(live, predictor.predict(dialogue))


def test_too_little_gpu_memory_names_the_setting_that_helps(
    tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    predictor = chatml_predictor(tiny_llama)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")

    monkeypatch.setattr("erc_llm.decoding.scoring.forest_logits", full)
    with pytest.raises(
        ModelError, match=r"Tried to allocate 2\.00 GiB\.\); lower scoring\.tokens_per_forest, which is"
    ):
        predictor.predictions([scene(*LINES)])
