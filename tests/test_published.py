"""Results of others: complete, stated as such, and kept apart from measured ones."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.evaluation.evidence import SystemMetrics
from erc_llm.published import Reported, reported, reported_for
from tests.evaluation.compared_tables import INFO


def test_all_published_numbers_are_there() -> None:
    found = {r.system: (r.accuracy, r.weighted_f1) for r in reported()}
    assert found == {
        "CoMPM": (None, 37.37),
        "CoMPM, its released checkpoint": (None, 38.56),
        "CoMPM, rerun by EmoNet": (39.38, 37.85),
        "EmoNet, + global speaker id": (35.51, 29.43),
        "EmoNet, + speaker behaviour": (39.90, 36.96),
        "EmoNet, + weighted loss, unnormalised": (40.43, 37.13),
        "EmoNet (+ weighted loss, normalised)": (41.18, 39.18),
        "InstructERC": (None, 41.37),
        "BiosERC, Llama-2-7b": (None, 41.44),
        "BiosERC, Llama-2-13b": (None, 41.68),
        "LaERC-S, first called CKERC": (None, 42.08),
    }


def test_versions_and_their_sizes_agree() -> None:
    sizes = {"original": 1328, "aligned": 984, None: None}
    for result in reported():
        assert result.test_utterances == sizes[result.test_version]
        assert result.source
        assert result.caveats
    assert {r.test_version for r in reported() if r.system.startswith(("CoMPM", "EmoNet"))} == {"original"}
    assert {r.context for r in reported() if r.system.startswith("BiosERC")} == {"full"}
    (instruct,) = (r for r in reported() if r.system == "InstructERC")
    assert "picks the epoch on test" in instruct.caveats


def test_they_stand_beside_emorynlp_only() -> None:
    emorynlp = replace(INFO, labels=EMORYNLP.names, corpus_version="aligned")
    assert reported_for([emorynlp, emorynlp]) == reported()
    assert reported_for([INFO, INFO]) == ()
    assert reported_for([replace(emorynlp, corpus_version="own")]) == ()


def test_no_record_can_pass_for_a_measured_one() -> None:
    assert not {f.name for f in fields(Reported)} & {"headline", "runs", "classes"}
    with pytest.raises(TypeError):
        SystemMetrics(**{f.name: getattr(reported()[0], f.name) for f in fields(Reported)})
