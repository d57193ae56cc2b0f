"""Load on the service: what is sent, and how runs become a row."""

from __future__ import annotations

import json

import pytest

from benchmarks import service
from erc_llm.serving.messages import Conversation


def test_the_dialogues_of_dev_are_valid_requests() -> None:
    asked, lines = service.bodies("sample")
    sizes = [len(Conversation.model_validate_json(body).lines) for body in asked]
    assert len(asked) > 5
    assert lines == pytest.approx(sum(sizes) / len(sizes))
    assert "\n" not in "".join(asked)  # one request a line
    assert json.loads(asked[0])["lines"][0].keys() == {"speaker", "text"}


def test_a_row_has_medians_all_failures_and_the_first_and_last_memory() -> None:
    runs = [
        service.Load(requests=10, seconds=2, failed=1, p50=30, p95=90, before=100, halfway=105, after=110),
        service.Load(requests=30, seconds=2, failed=0, p50=10, p95=70, before=110, halfway=121, after=120),
        service.Load(requests=20, seconds=2, failed=2, p50=20, p95=80, before=120, halfway=118, after=125),
    ]
    assert service.row(True, 8, runs, 12.5) == "| on | 8 | 10.0 | 125 | 20 | 80 | 3 | 100 | 121 | 125 |"


def test_without_wrk_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(service.shutil, "which", lambda _: None)
    assert service.main(["runs/none"]) == 3
    assert "apt-get install wrk" in capsys.readouterr().err
