"""The service's own schema: a client made from it gets the predictor's numbers, and every answer is as described."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from erc_llm.predictor import Predictor
from tests.prompting.scenes import scene
from tests.serving.client import service
from tests.serving.test_service import SAID, assert_same, lines
from tests.test_predictor import chatml_predictor
from tests.tiny_models import TinyModel

OPERATIONS = (
    ("POST", "/v1/label"),
    ("POST", "/v1/live"),
    ("POST", "/v1/live/{session}"),
    ("GET", "/v1/live/{session}"),
    ("DELETE", "/v1/live/{session}"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.fixture(scope="module")
def predictor(tiny_llama: TinyModel) -> Predictor:
    return chatml_predictor(tiny_llama)


@pytest.fixture(scope="module")
def schema(predictor: Predictor) -> Iterator[Any]:
    with service(predictor) as client:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")


def test_a_client_made_from_the_schema_gets_the_predictors_numbers(schema: Any, predictor: Predictor) -> None:
    expected = predictor.predict(scene(*SAID))
    operation = schema["/v1/label"]["POST"]
    answer = operation.Case(body={"lines": lines(SAID)}, media_type="application/json").call_and_validate()
    for found, ours in zip(answer.json()["lines"], expected, strict=True):
        assert_same(found, ours)
    started = schema["/v1/live"]["POST"].Case(body={}, media_type="application/json").call_and_validate().json()
    say = schema["/v1/live/{session}"]["POST"]
    for line, ours in zip(lines(SAID), expected, strict=True):
        case = say.Case(path_parameters={"session": started["session"]}, body=line, media_type="application/json")
        assert_same(case.call_and_validate().json(), ours)


def test_the_schema_describes_every_request(schema: Any) -> None:
    found = {(o.ok().method.upper(), o.ok().path) for o in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_drawn_requests_get_answers_as_described(schema: Any, method: str, path: str) -> None:
    checks = [getattr(schemathesis.checks, name) for name in CHECKS]
    operation = schema[path][method]

    @settings(max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.call_and_validate(checks=checks)

    ask()
