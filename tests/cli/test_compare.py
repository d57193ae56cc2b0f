"""`erc-llm compare` through the entry point the shell calls: what it prints, writes and refuses, word for word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.predictions import Predictions, write_predictions
from tests.command_line import Command, refused
from tests.evaluation.compared_tables import INFO, LABELS, changed, rows, table

DOCS = Path(__file__).parents[2] / "docs"
RUNS = DOCS / "results" / "runs"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_predictions(table(), "a.parquet")
    write_predictions(table(0.3, "other", draw=7), "b.parquet")


def stored(name: str, given: Predictions, **info: Any) -> str:
    write_predictions(replace(given, info=replace(given.info, **info)), name)
    return name


def test_real_runs_are_compared_and_written(erc: Command, tmp_path: Path) -> None:
    tables = [RUNS / "aligned" / name for name in ("dev.parquet", "dev-zero-shot.parquet")]
    done = erc("compare", *tables, "--draws", 500, "--out", "report")
    assert done.code == 0, done.err
    assert "954 utterances in 89 dialogues of 11 episodes" in done.out
    assert "Reported elsewhere, not rerun" in done.out
    assert "nothing: no run [UNLIKE]" in done.out, "only one of them was trained"
    assert "NOT STATED" not in done.out
    values = json.loads((tmp_path / "report" / "comparison.json").read_text("utf-8"))
    assert 100 * values["pairs"][0]["headline"][0]["estimate"]["value"] == pytest.approx(36.19, abs=0.005)
    for suffix in ("md", "html", "json"):
        assert f"written: report/comparison.{suffix}" in done.out


@pytest.mark.slow
def test_cross_fitted_tables_are_evaluated_and_compared_as_decided(erc: Command) -> None:
    arms = [DOCS / "results" / "crossfit" / arm / "crossfit.parquet" for arm in ("none", "statistics")]
    done = erc("evaluate", arms[0], "--decide", "weighted_f1", "--draws", 100)
    assert done.code == 0, done.err
    assert "rules found on the rest of train (cross-fitted)" in done.out
    assert "Weighted F1  36.13" in done.out, "as docs/crossfit.md says"
    assert "Decided  Change" in done.out
    done = erc("compare", *arms, "--decide", "weighted_f1", "--draws", 100)
    assert done.code == 0, done.err
    assert "Most probable and decided answers" in done.out
    assert "decision for weighted_f1 (cross_fitted)" in done.out
    assert "+0.53" in done.out


def test_a_table_that_is_not_cross_fitted_keeps_its_answers(erc: Command) -> None:
    dev = RUNS / "aligned" / "dev.parquet"
    for command in (("evaluate", dev), ("compare", dev, RUNS / "aligned" / "dev-zero-shot.parquet")):
        refused(erc(*command, "--decide", "macro_f1"), "is not cross-fitted (split dev)", "leave --decide out")


def test_runs_on_two_corpora_are_compared_on_what_they_share(erc: Command) -> None:
    tables = [RUNS / version / "dev.parquet" for version in ("aligned", "original")]
    refused(erc("compare", *tables), "are about different corpora", "compare what they have in common")
    done = erc("compare", *tables, "--on", "intersection", "--draws", 200)
    assert done.code == 0, done.err
    assert "Compared on the intersection: 954 utterances that all tables have; left out 390 of" in done.out
    assert "original [UNLIKE]" in done.out


def test_the_page_shows_what_the_command_prints(erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.chdir(RUNS)
    done = erc("compare", "aligned/dev.parquet", "aligned/dev-zero-shot.parquet")
    printed = "\n".join(line.rstrip() for line in done.out.splitlines())
    blocks = [part.strip("\n") for part in (DOCS / "comparison.md").read_text("utf-8").split("```")[1::2]]
    shown = [block for block in blocks if not block.startswith(("erc-llm", " "))]
    assert len(shown) == 7
    for block in shown:
        assert block in printed, block


def test_draws_and_seed_are_told(erc: Command) -> None:
    done = erc("compare", "a.parquet", "b.parquet", "--draws", 300, "--seed", 5)
    assert "percentiles of 300 resamples" in done.out
    assert "Seed 5." in done.out
    assert done.out == erc("compare", "a.parquet", "b.parquet", "--draws", 300, "--seed", 5).out


def test_missing_rows(erc: Command) -> None:
    less = stored("less.parquet", rows(table(system="other"), list(range(1, 240))))
    refused(
        erc("compare", "a.parquet", less),
        "erc-llm: a.parquet and less.parquet are about different targets: 1 only in the first, 0 only in the second, "
        "such as ('d0', '0'); predict the same split of the same corpus with both\n",
    )
    assert erc("compare", "a.parquet", less, "--on", "intersection", "--draws", 100).code == 0


def test_extra_rows(erc: Command) -> None:
    more = stored("more.parquet", table(system="other", dialogues=41))
    refused(
        erc("compare", "a.parquet", more),
        "erc-llm: a.parquet and more.parquet are about different targets: 0 only in the first, 6 only in the second, "
        "such as ('d40', '0'); predict the same split of the same corpus with both\n",
    )


def test_doubled_rows(erc: Command) -> None:
    given = table(system="other")
    columns = {name: [*values, values[7]] for name, values in given.columns().items()}
    head = {"info": given.info.as_dict(), "rows": 241}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    Path("twice.jsonl").write_text("\n".join(map(json.dumps, (head, *records))))
    refused(
        erc("compare", "a.parquet", "twice.jsonl"),
        "erc-llm: twice.jsonl: target ('d1', '1') occurs in 2 rows; expected one row per target\n",
    )


def test_gold_labels_that_disagree(erc: Command) -> None:
    given = table(system="other")
    assert given.gold is not None
    assert given.gold[3] == "Neutral"
    other = stored("other.parquet", changed(given, gold=[*given.gold[:3], "Mad", *given.gold[4:]]))
    refused(
        erc("compare", "a.parquet", other),
        "erc-llm: a.parquet and other.parquet have other gold labels in 1 rows, first ('d0', '3'): Neutral and Mad; "
        "one of them is about another corpus, or damaged\n",
    )


def test_another_label_set(erc: Command) -> None:
    info = replace(INFO, labels=(*LABELS, "Scared"))
    write_predictions(Predictions.from_columns(info, table().columns() | {"probabilities": None}), "five.parquet")
    refused(
        erc("compare", "a.parquet", "five.parquet"),
        "erc-llm: a.parquet and five.parquet have different label sets: Joyful, Mad, Neutral, Sad and Joyful, Mad, "
        "Neutral, Sad, Scared\n",
    )


def test_another_split_and_another_corpus(erc: Command) -> None:
    refused(
        erc("compare", "a.parquet", stored("test.parquet", table(), split="test")),
        "erc-llm: a.parquet and test.parquet are about different splits, 'dev' and 'test'; "
        "predict one split with both\n",
    )
    refused(
        erc("compare", "a.parquet", stored("old.parquet", table(), corpus_sha256="ef" * 32, corpus_version="original")),
        "erc-llm: a.parquet and old.parquet are about different corpora: 'series' (version own, hash abababababab) and "
        "'series' (version original, hash efefefefefef); predict one corpus with both, or compare what they have in "
        "common with --on intersection\n",
    )


def test_a_truncated_file(erc: Command) -> None:
    content = Path("b.parquet").read_bytes()
    for length in (len(content) - 1, len(content) // 2, 8):
        Path("cut.parquet").write_bytes(content[:length])
        refused(erc("compare", "a.parquet", "cut.parquet"), "erc-llm: cut.parquet: damaged or cut off (")
    Path("cut.parquet").write_bytes(content[:2])
    refused(erc("compare", "a.parquet", "cut.parquet"), "cut.parquet: neither Parquet nor JSONL")


def test_no_gold_at_all(erc: Command) -> None:
    a, b = (stored(f"{n}.parquet", changed(table(system=n), gold=None)) for n in ("blind", "dark"))
    refused(
        erc("compare", a, b),
        "erc-llm: blind.parquet and dark.parquet: no row has a gold label, so there is nothing to compare; predict a",
    )
    refused(erc("compare", "a.parquet", b), "dark.parquet has no gold labels, the other has; predict on")


def test_a_single_dialogue(erc: Command) -> None:
    a, b = (stored(f"{name}.parquet", table(system=name, dialogues=1, draw=d)) for d, name in enumerate(("one", "two")))
    done = erc("compare", a, b)
    assert done.code == 0, done.err
    assert "All targets are from one dialogue: no intervals and no p-values" in done.out
    assert "  better" not in done.out
    assert "not shown" in done.out


def test_one_table_one_twice_and_one_that_is_not_there(erc: Command) -> None:
    refused(
        erc("compare", "a.parquet"),
        "erc-llm: compare: expected at least two predictions tables; for one, use `erc-llm evaluate`",
    )
    Path("link.parquet").symlink_to("a.parquet")
    for again in ("a.parquet", "./a.parquet", "A=a.parquet", "link.parquet"):
        refused(erc("compare", "a.parquet", "b.parquet", again), "erc-llm: compare: a table is given twice; give every")
    refused(
        erc("compare", "a.parquet", "none.parquet"), "erc-llm: none.parquet: no such file; `erc-llm predict` writes"
    )


def test_systems_that_answer_alike_could_have_shown_nothing_and_nothing_is_claimed(erc: Command) -> None:
    done = erc("compare", "a.parquet", stored("copy.parquet", table(), recipe_sha256="ee" * 32), "--draws", 100)
    assert done.code == 0, done.err
    assert "weighted F1 is the same in every resample" in " ".join(done.out.split())
    assert "smallest true" not in " ".join(done.out.split()).partition("Notes")[0]


def test_only_runs_of_one_system(erc: Command) -> None:
    again = stored("again.parquet", table(draw=3), seed=2)
    refused(
        erc("compare", "a.parquet", again),
        "erc-llm: all 2 tables are runs of one system, tuned; give a table of another one\n",
    )


def test_a_folder_that_cannot_be_made(erc: Command) -> None:
    Path("file").write_text("in the way")
    refused(erc("compare", "a.parquet", "b.parquet", "--draws", 100, "--out", "file/x"), "cannot be written")
