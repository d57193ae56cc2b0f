"""The benchmarks compare like with like: the same ids and targets on both sides, ratios computed within a round."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import calibration, comparison, generation, scoring
from benchmarks.matmul import shapes_of, shares
from benchmarks.measure import Job, JobError, Meter, ratio, run_alternating, run_job, speeds, summary
from benchmarks.peers import (
    IGNORED,
    Prompt,
    answer_token_log_likelihoods,
    answered_label,
    fit_trl,
    generate_answers,
    prompts_of,
    training_rows,
)
from benchmarks.report import as_markdown, tables
from benchmarks.training import clock
from benchmarks.workload import Settings, Workload, open_workload
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.scoring import score_trees
from erc_llm.errors import UserError
from erc_llm.models.adapters import attach_lora
from erc_llm.models.loading import load_base_model
from erc_llm.prompting.names import line_names
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.attention import ATTENTION
from erc_llm.tuning.order import order_steps
from erc_llm.tuning.trainer import FitSettings, fit
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue, tiny_config, write_corpus

SCENES = [dialogue(number, 3 + number % 3) for number in range(4)]


def _prompter(tiny: TinyModel) -> Prompter:
    return Prompter(tiny.tokenizer, load_prompt("instruct"), EMORYNLP)


def _base(tiny: TinyModel, attention: str) -> Any:
    return load_base_model(str(tiny.folder), precision="fp32", device="cpu", attention=attention).model


def _spelled_out(prompter: Prompter, number: int, target: int) -> tuple[int, ...]:
    """A target's prompt put together by hand: instruction, lines up to its own, question, header."""
    scene = SCENES[number]
    names = line_names(scene.utterances, prompter.options.names)
    ids = list(prompter.head_ids(EMORYNLP.names))
    for k in range(target + 1):
        ids += prompter.line_ids(k + 1, names[k], scene.utterances[k].text)
    for _, piece in prompter.question_ids(target + 1, names[target], scene.utterances[target].text):
        ids += piece
    return tuple(ids)


def test_a_peer_reads_the_whole_prompt_of_each_target_and_trains_on_its_answer_only(tiny_llama: TinyModel) -> None:
    prompter = _prompter(tiny_llama)
    trees = [tree for scene in SCENES for tree in prompter.trees(scene, "gold")]
    rows = training_rows(trees)
    expected = [(n, k, u.label) for n, scene in enumerate(SCENES) for k, u in enumerate(scene.utterances)]
    assert len(rows) == len(expected) == sum(len(tree.questions) for tree in trees)
    for row, (number, target, label) in zip(rows, expected, strict=True):
        assert label is not None
        prompt, answer = _spelled_out(prompter, number, target), prompter.answer_ids[EMORYNLP.index(label)]
        assert tuple(row["input_ids"]) == prompt + answer
        assert row["labels"] == [IGNORED] * len(prompt) + list(answer)


def test_scoring_peers_get_the_same_prompts_and_all_answers(tiny_llama: TinyModel) -> None:
    prompter = _prompter(tiny_llama)
    prompts = prompts_of([tree for scene in SCENES for tree in prompter.trees(scene, "all")])
    targets = [(n, k) for n, scene in enumerate(SCENES) for k in range(len(scene.utterances))]
    assert [p.ids for p in prompts] == [_spelled_out(prompter, n, k) for n, k in targets]
    assert all(p.answers == prompter.answer_ids and p.labels == tuple(range(7)) for p in prompts)


def test_likelihood_requests_give_our_log_likelihoods(tiny_llama: TinyModel) -> None:
    trees = _prompter(tiny_llama).trees(SCENES[2], "all")
    ours = [s.log_likelihoods for s in score_trees(_base(tiny_llama, ATTENTION), trees)[0]]
    theirs = answer_token_log_likelihoods(_base(tiny_llama, "sdpa"), prompts_of(trees), batch_size=3)
    for mine, tokens in zip(ours, theirs, strict=True):
        assert mine.tolist() == pytest.approx([sum(t) for t in tokens], abs=1e-3)


def test_constrained_generation_is_the_greedy_walk_through_the_answers(tiny_llama: TinyModel) -> None:
    prompts = prompts_of(_prompter(tiny_llama).trees(SCENES[2], "all"))
    model, tokenizer = _base(tiny_llama, "sdpa"), tiny_llama.tokenizer
    generated = generate_answers(model, tokenizer, prompts, batch_size=2, constrained=True)
    tokens = answer_token_log_likelihoods(model, prompts, batch_size=4)
    for prompt, new, found in zip(prompts, generated, tokens, strict=True):
        greedy = list(range(len(prompt.answers)))
        for step in range(max(map(len, prompt.answers))):
            best = max(found[k][step] for k in greedy if len(prompt.answers[k]) > step)
            greedy = [k for k in greedy if len(prompt.answers[k]) > step and found[k][step] > best - 1e-4]
            if len(greedy) == 1:
                break
        assert answered_label(prompt, new, tokenizer.eos_token_id) in greedy


def test_an_answer_counts_only_when_it_ends() -> None:
    prompt = Prompt((1, 2), ((5, 6, 9, 3), (5, 9, 3)), (0, 1))
    assert answered_label(prompt, [5, 6, 9], eos=9) == 0
    assert answered_label(prompt, [5, 9, 9, 9], eos=9) == 1
    assert answered_label(prompt, [5, 6, 7], eos=9) is None


def test_ratios_are_taken_within_a_round_and_the_median_is_kept() -> None:
    ours = [{"utterances": 10, "seconds": s, "tokens": 40, "peak_mb": s, "before_mb": 1} for s in (1.0, 2.0, 10.0)]
    theirs = [{"utterances": 10, "seconds": s} for s in (4.0, 4.0, 60.0)]
    found = ratio(speeds(ours, "utterances"), speeds(theirs, "utterances"))
    assert found.values == (4.0, 2.0, 6.0)
    assert found.median == 4.0
    assert str(found) == "4.00 (2.00 to 6.00)"
    side = summary(ours, "utterances")
    assert (side["utterances_per_second"], side["tokens_per_second"], side["peak_mb"]) == (5.0, 20.0, 10.0)


def test_rounds_alternate_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def record(job: Job) -> dict[str, Any]:
        order.append(job.name)
        return {"number": len(order)}

    monkeypatch.setattr("benchmarks.measure.run_job", record)
    results = run_alternating([Job("A", "", {}), Job("B", "", {})], 3)
    assert "".join(order) == "ABBAAB"
    assert results == {"A": [{"number": n} for n in (1, 4, 5)], "B": [{"number": n} for n in (2, 3, 6)]}


def test_a_job_runs_in_a_process_of_its_own_and_a_failure_says_why() -> None:
    assert run_job(Job("a", "benchmarks.peers:prompts_of", {"trees": []})) == []
    with pytest.raises(JobError, match=r"broken: .*exit code 1[\s\S]*no_such_module"):
        run_job(Job("broken", "no_such_module:run", {}))


def test_the_meter_counts_what_the_model_reads_in_both_trainers(tiny_llama: TinyModel, tmp_path: Path) -> None:
    prompter = _prompter(tiny_llama)
    trees = [prompter.trees(scene, "gold") for scene in SCENES]
    numbers = FitSettings(1e-3, "cosine", 0.0, 0.0, 1.0, 1, False, False, False, True, 3, 1, (), "test")
    schedule = order_steps([len(t[0]) for t in trees], epochs=1, tokens_per_step=300, parts=1, seed=3)

    ours = attach_lora(_base(tiny_llama, ATTENTION), rank=2, alpha=4, dropout=0.0, seed=1)
    meter = Meter(ours)
    fit(ours, tiny_llama.tokenizer, schedule, lambda s, _: trees[s], numbers, tmp_path / "ours", [clock(meter)])
    unread = sum(len(t[0].questions) for t in trees)  # the last token of an answer is predicted, never read
    assert meter.result()["tokens"] == sum(len(t[0]) for t in trees) - unread

    theirs = attach_lora(_base(tiny_llama, "sdpa"), rank=2, alpha=4, dropout=0.0, seed=1)
    rows = training_rows([tree for scene in trees for tree in scene])
    meter = Meter(theirs)
    fit_trl(theirs, tiny_llama.tokenizer, rows, numbers, 1, False, tmp_path / "trl", [clock(meter)])
    assert meter.result()["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert meter.result()["seconds"] > 0


def test_flips_are_told_with_both_labels_numbers() -> None:
    ours = [{"label": 0, "log_likelihoods": [-1.0, -1.5]}, {"label": 1, "log_likelihoods": [-2.0, -1.0]}]
    requests = [{"label": 0, "tokens": [[-0.9, -0.1], [-0.3, -1.2]]}, {"label": 1, "tokens": [[-1, -1], [-0.5, -0.5]]}]
    found = scoring.agreement(
        {
            scoring.TREE: {"names": ("Mad", "Sad"), "ids": ((4, 9), (5, 9)), "answers": ours},
            scoring.REQUESTS: {"answers": requests},
            scoring.CONSTRAINED: {"answers": [{"label": 1}, {"label": 1}]},
            scoring.GENERATE: {"answers": [{"label": None}, {"label": 1}]},
        }
    )
    assert found[scoring.CONSTRAINED]["same"] == 0.5
    flip = found[scoring.CONSTRAINED]["flips"][0]
    assert (flip["ours"], flip["theirs"], flip["gap"]) == ("Mad", "Sad", 0.5)
    assert flip["token"] == [-0.9, -0.3]
    assert found[scoring.REQUESTS] == {"same": 1.0, "flips": []}
    assert found[scoring.GENERATE] == {"same": 0.5, "no_label": 0.5}
    assert math.isclose(found["largest_difference"], 0.0, abs_tol=1e-9)


def test_the_share_counts_non_embedding_parameters(tiny_llama: TinyModel) -> None:
    shapes, head, parameters = shapes_of(tiny_llama.model)
    embedding = tiny_llama.model.get_input_embeddings().weight.numel()
    assert parameters == sum(p.numel() for p in tiny_llama.model.parameters()) - embedding
    assert head == (64, len(tiny_llama.tokenizer))
    assert shapes == {(64, 64): 4, (64, 32): 4, (64, 128): 4, (128, 64): 2}
    speeds = {"float32": {"reached": {"training": 8.0}}, "bfloat16": {"reached": {"training": 16.0}}}
    matmul = {"dtype": "float32", "non_embedding_parameters": 10**9, "gflops": speeds}
    side = {"sides": {"token tree": {"tokens_per_second": 1.0}}}
    assert shares(matmul, {"training": side})["training"] == {
        "gflops": 4.0,
        "tokens_per_second": 1.0,
        "share": 0.5,
        "share_of_bfloat16": 0.25,
    }


def test_the_markdown_says_what_was_measured_and_where() -> None:
    machine = {"processor": "a processor", "threads": 2, "gpu": None, "versions": {"torch": "2"}}
    single = {"reached": {"training": 100.0}, "shapes": {"8 x 2 x 2": 90.0}}
    report = {
        "settings": {"corpus_name": "sample"},
        "rounds": 3,
        "matmul": {
            "model": "a model",
            "dtype": "float32",
            "dtype_reason": "asked for",
            "rows": {"training": 8},
            "gflops": {"float32": single, "bfloat16": single},
            "machine": machine,
        },
    }
    text = as_markdown(report)
    assert "| 8 x 2 x 2 | 90 | 90 |" in text
    assert "a model on a processor, 2 threads; torch 2; corpus sample; 3 alternating rounds" in text


def test_meter_leaves_warm_up_out(tiny_llama: TinyModel) -> None:
    model = _base(tiny_llama, "sdpa")
    ids = torch.zeros(2, 5, dtype=torch.int64)
    meter = Meter(model)
    model(input_ids=ids)
    with meter:
        model(input_ids=ids)
    model(input_ids=ids)
    assert meter.result(utterances=2)["tokens"] == 10


@pytest.mark.slow
def test_the_cost_of_a_comparison_is_that_of_the_whole_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SIZES", (300,))
    monkeypatch.setattr("benchmarks.measure.run_job", lambda job: comparison.run(**job.arguments, draws=100))
    found = comparison.compare(1)
    measured = found["sizes"]["300"]
    assert measured["cpu_seconds"] > 0
    assert measured["seconds"] > 0
    assert 20 < measured["peak_mb"] < 4000
    (table,) = tables({"comparison": found})
    assert table.rows[0][0] == "two tables of 300 utterances"
    with pytest.raises(UserError, match=r"ended with exit code 2: erc-llm: .*no such file"):
        comparison.measure([sys.executable, "-c", "from erc_llm.cli.app import main; main()", "compare", "a", "b"])


@pytest.mark.slow
def test_the_cost_of_a_calibration_is_measured_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CORRECTED", 2000)
    monkeypatch.setattr(calibration, "FITTED", 100)
    monkeypatch.setattr("benchmarks.measure.run_job", lambda job: calibration.run(**job.arguments))
    found = calibration.compare(2)
    assert list(found) == list(calibration.PARTS)
    assert [part["predictions"] for part in found.values()] == [2000, 2000, 100, 100]
    assert all(len(part["seconds_rounds"]) == 2 and part["seconds"] > 0 for part in found.values())
    (table,) = tables({"calibration": found})
    assert [row[1] for row in table.rows] == ["2,000", "2,000", "100", "100"]


def test_constrained_and_free_decoding_make_equal_steps(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """On the same prompts; one side says labels and their end only."""
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config(tiny_llama, tmp_path, tmp_path).as_yaml(), encoding="utf-8")
    settings = asdict(Settings(str(write_corpus(tmp_path / "corpus")), str(config)))
    work = open_workload(settings, "dev", None, ATTENTION)
    prompts = [list(p.ids) for p in prompts_of([t for d in work.dialogues for t in work.prompter.trees(d, "all")])]
    (_, constrained), (_, free) = (generation.decode(work, prompts, constrained=c) for c in (True, False))
    assert {len(row) for row in constrained + free} == {generation.STEPS}
    end = tiny_llama.tokenizer.eos_token_id
    answers = work.prompter.answer_ids
    assert all(any(tuple(row[: len(a)]) == a and {*row[len(a) :]} <= {end} for a in answers) for row in constrained)
    assert constrained != free
    assert free == [list(generated_freely(work, prompt)) for prompt in prompts]


def generated_freely(work: Workload, prompt: list[int]) -> Iterator[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(generation.STEPS):
            ids.append(int(work.loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            yield ids[-1]


@pytest.mark.slow
def test_constraints_and_draws_are_reported_in_pairs(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config(tiny_llama, tmp_path, tmp_path).as_yaml(), encoding="utf-8")
    settings = Settings(str(write_corpus(tmp_path / "corpus")), str(config))
    monkeypatch.setattr(
        "benchmarks.measure.run_job", lambda job: getattr(generation, job.function.rpartition(":")[2])(**job.arguments)
    )
    section = generation.compare(settings, 4, 2, lambda *_: None)
    step, draw = section["step"], section["draw"]
    assert len(step["ratio_rounds"]) == 2 * generation.PAIRS
    assert (step["batch"], step["steps"]) == (2 + 3 + 4, generation.STEPS)
    assert draw["targets"] > 0
    assert draw["tokens"] > draw["measured_tokens"] > 0, "the epoch is larger than what was measured of it"
    assert draw["share"] == pytest.approx(sum(draw["share_rounds"]) / 2)
    assert len(draw["share_rounds"]) == 2
    assert min(draw["share_rounds"]) > 0
    (table,) = tables({"generation": section})
    assert table.rows[1][2] == f"{step['ratio']:.3f}x"
