"""A whole comparison: the metrics of `evaluate`, the corrections named, and what switches parts of it off."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn import metrics as peer

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.contrasts import corrected
from erc_llm.evaluation.evidence import Contrast
from erc_llm.evaluation.references import difference
from erc_llm.evaluation.report import evaluate
from erc_llm.evaluation.significance import holm, smallest_detectable
from erc_llm.metrics import Estimate
from erc_llm.predictions import Predictions
from erc_llm.published import HEADING, reported
from tests.evaluation.compared_tables import INFO, LABELS, SIZE, changed, named, rows, table


def test_it_says_what_evaluate_says() -> None:
    a, b = table(), table(0.3, "zero-shot", draw=7)
    found = compare(named(a, b), draws=500)
    assert found.systems[0].headline == evaluate(a, draws=500).headline
    assert found.systems[1].headline == evaluate(b, draws=500).headline
    alone, (pair,) = difference(a, b, draws=500), found.pairs
    assert pair.headline[0].estimate == alone.estimate
    assert (pair.agreement.flips, pair.agreement.kappa) == (alone.flips, alone.kappa)
    assert pair.headline[0].verdict == "better"
    evaluation = evaluate(a, draws=500)
    calibration = found.systems[0].calibration
    assert calibration is not None
    assert calibration.nll.value == pytest.approx(evaluation.negative_log_likelihood)
    assert evaluation.calibration_error is not None
    assert asdict(calibration.calibration_error) == pytest.approx(asdict(evaluation.calibration_error))
    assert [f1 for f1 in found.systems[0].classes] == pytest.approx([c.f1 for c in evaluation.classes])


def test_the_first_table_is_compared_with_each_other_one_and_corrected_for_their_number() -> None:
    tables = table(0.5), table(0.42, "second", draw=2), table(0.5, "third", draw=3), table(0.2, "fourth", draw=4)
    found = compare(named(*tables), draws=400)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("tuned", name) for name in ("second", "third", "fourth")]
    for metric in range(3):
        p_values = [pair.headline[metric].p_value for pair in found.pairs]
        assert tuple(pair.headline[metric].p_corrected for pair in found.pairs) == pytest.approx(holm(p_values))
    for pair in found.pairs:
        parts = [*pair.classes, *(row for division in pair.divisions for row in division.rows)]
        given = [np.nan if not row.targets else row.p_value for row in parts]
        expected = [None if np.isnan(p) else p for p in holm(given)]
        assert [row.p_corrected for row in parts] == pytest.approx(expected)
        assert pair.standard_error is not None
        assert pair.detectable == smallest_detectable(pair.standard_error)


def test_a_level_without_targets_is_not_corrected_for() -> None:
    some = Contrast("a", 5, 0.5, 0.4, Estimate(0.1), 0.02)
    first, second = corrected([some, replace(some, targets=0, p_value=1.0)])
    assert (first.p_corrected, second.p_corrected) == (0.02, None)


def test_better_needs_the_interval_and_the_corrected_p_value() -> None:
    clear = Contrast("weighted F1", 5, 0.5, 0.4, Estimate(0.1, 0.01, 0.2), 0.01, 0.04)
    assert clear.verdict == "better"
    assert replace(clear, lower_is_better=True).verdict == "worse"
    assert replace(clear, p_corrected=0.06).verdict == "not shown"
    assert replace(clear, estimate=Estimate(0.1, -0.01, 0.2)).verdict == "not shown"
    assert replace(clear, estimate=Estimate(0.1)).verdict == "not shown"
    assert replace(clear, estimate=Estimate(-0.1, -0.2, -0.01)).verdict == "worse"


def test_agreement_and_oracle_by_hand() -> None:
    gold = ["Sad", "Mad", "Sad", "Joyful", "Mad", "Sad"]
    said = ["Sad", "Mad", "Mad", "Sad", "Sad", "Mad"], ["Sad", "Sad", "Sad", "Sad", "Joyful", "Sad"]
    base = rows(table(), [0, 1, 2, 6, 7, 8])
    a, b = (changed(base, gold=gold, predicted=p, previous_gold_same_speaker=None) for p in said)
    (pair,) = compare(named(a, replace(b, info=replace(INFO, system="other"))), draws=100).pairs
    found = pair.agreement
    assert (found.both, found.only_a, found.only_b, found.neither, found.flips) == (1, 1, 2, 2, 4)
    oracle = ["Sad", "Mad", "Sad", "Sad", "Sad", "Sad"]
    expected = peer.f1_score(gold, oracle, average="weighted", labels=LABELS, zero_division=0)
    assert found.oracle_weighted_f1 == pytest.approx(expected)
    assert found.oracle_accuracy == pytest.approx(4 / 6)


def test_several_seeds_of_a_system_are_grouped_and_averaged() -> None:
    runs = [table(0.5, draw=seed, seed=seed) for seed in (1, 2, 3)]
    found = compare(named(runs[0], table(0.3, "other", draw=9), *runs[1:]), draws=300)
    system = found.systems[0]
    alone = [evaluate(run, draws=50).headline.weighted_f1.value for run in runs]
    assert [run.weighted_f1 for run in system.runs] == pytest.approx(alone)
    assert [run.seed for run in system.runs] == [1, 2, 3]
    assert system.headline.weighted_f1.value == pytest.approx(np.mean(alone))
    assert system.calibration is not None
    assert system.calibration.nll.value == pytest.approx(
        np.mean([evaluate(run, draws=50).negative_log_likelihood for run in runs])
    )
    assert any("tuned has 3 runs (seeds 1, 2, 3); so few" in note for note in found.notes)
    assert any("p-values hold the runs as they are" in note for note in found.notes)


def test_runs_that_vary_are_told_by_the_interval() -> None:
    """The same mean, from runs that are alike and from runs that are not."""
    other = table(0.3, "other", draw=9)
    alike = [table(0.5, draw=20 + seed, seed=seed) for seed in range(3)]
    unlike = [table(right, draw=30 + seed, seed=seed) for seed, right in enumerate((0.1, 0.5, 0.9))]
    widths = []
    for runs in (alike, unlike):
        low_high = compare(named(*runs, other), draws=1000).pairs[0].headline[0].estimate
        widths.append(low_high.high - low_high.low)
    assert widths[1] > 2 * widths[0]


def test_runs_of_one_system_alone_are_refused() -> None:
    with pytest.raises(PredictionsError, match="all 2 tables are runs of one system, tuned; give a table of another"):
        compare(named(table(seed=1), table(seed=2)))


def test_a_table_and_a_draw_more_are_needed() -> None:
    with pytest.raises(PredictionsError, match="at least two tables and one draw, found 1 and 10000"):
        compare(named(table()))
    with pytest.raises(PredictionsError, match="found 2 and 0"):
        compare(named(table(), table(system="other")), draws=0)


def test_a_single_dialogue_has_metrics_and_no_evidence() -> None:
    found = compare(named(table(dialogues=1), table(0.1, "other", dialogues=1, draw=4)), draws=100)
    (pair,) = found.pairs
    for contrast in (*pair.headline, *pair.classes, *pair.losses):
        assert (contrast.estimate.low, contrast.p_value, contrast.verdict) == (None, None, "not shown")
    assert (pair.detectable, pair.by_episode) == (None, ())
    assert found.systems[0].headline.weighted_f1.low is None
    assert found.notes == (
        "All targets are from one dialogue: no intervals and no p-values, because whole dialogues are resampled.",
    )


def test_episodes_hold_whole_dialogues_and_make_their_own_intervals() -> None:
    a, b = table(), table(0.5, "other", draw=5)
    found = compare(named(a, b), draws=500)
    assert (found.dialogues, found.episodes) == (40, 10)
    (pair,) = found.pairs
    as_dialogues = [changed(t, dialogue_id=list(t.episode), utterance_id=[str(i) for i in range(240)]) for t in (a, b)]
    expected = compare(named(*as_dialogues), draws=500).pairs[0].headline
    for ours, theirs in zip(pair.by_episode, expected, strict=True):
        assert (ours.estimate, ours.p_value) == (theirs.estimate, theirs.p_value)
    assert any("Only 10 episodes" in note for note in found.notes)


def test_a_scene_without_an_episode_is_one_of_its_own() -> None:
    a = table()
    assert a.episode is not None
    partly = changed(a, episode=[None if i < 2 * SIZE else name for i, name in enumerate(a.episode)])
    assert compare(named(partly, table(0.5, "other")), draws=100).episodes == 12


def test_what_the_tables_lack_is_said() -> None:
    bare = [changed(t, episode=None, text=None, probabilities=None) for t in (table(), table(0.4, "other"))]
    found = compare(named(*bare), draws=100)
    assert found.missing == (
        "No column 'episode': no check by episodes.",
        "Not every table has probabilities: nothing is said of calibration.",
        "No column 'text': no example scenes; tables written without `--without-text` have it.",
    )
    assert (found.episodes, found.systems[0].calibration, found.pairs[0].losses) == (None, None, ())


def test_published_results_stand_apart() -> None:
    assert compare(named(table(), table(system="other")), draws=100).published == ()
    names = EMORYNLP.names

    def as_emorynlp(given: Predictions) -> Predictions:
        info = replace(given.info, labels=names, corpus_version="aligned")
        return Predictions.from_columns(info, given.columns() | {"probabilities": None})

    found = compare(named(as_emorynlp(table()), as_emorynlp(table(0.4, "other"))), draws=100)
    assert found.published == reported()
    measured = found.as_dict()
    theirs = measured.pop(HEADING)
    assert len(theirs) == len(reported())
    plain = json.dumps(measured)
    assert not [r.system for r in reported() if r.system in plain]


def test_all_of_it_is_json() -> None:
    values = json.loads(json.dumps(compare(named(table(), table(0.4, "other")), draws=100).as_dict()))
    assert values["pairs"][0]["headline"][0]["verdict"] in ("better", "worse", "not shown")
    assert values["pairs"][0]["headline"][0]["estimate"].keys() == {"value", "low", "high"}
    assert values["manifest"][0]["name"] == "context"
    assert HEADING in values
