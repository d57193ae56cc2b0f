"""What a served model is asked, in each server's documented format, and what is read of its answers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding.dialects import Scored, Written, dialect_of, gbnf
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.endpoint import Endpoint
from erc_llm.prompting.messages import PromptText, prompt_texts
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from tests.model_server import Reply, Server, offered_by
from tests.prompting.scenes import scene
from tests.tiny_models import chatml_tokenizer, llama2_style_tokenizer

CHAT = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP)
PLAIN = Prompter(chatml_tokenizer(), load_prompt("plain"), EMORYNLP)
SCENE = scene(("Mara", "Who left the window open?"), ("Tomas", "I did."))
NAMES = list(EMORYNLP.names)


def endpoint(server: Server) -> Endpoint:
    return Endpoint(server.url, "m", retries=0, timeout=5)


def last_prompt(prompter: Prompter) -> PromptText:
    return prompt_texts(prompter, SCENE)[-1]


# Which dialect.


@pytest.mark.parametrize(
    ("pages", "name"),
    [
        ({"/v1/models": offered_by("vllm")}, "choice (vLLM)"),
        ({"/v1/models": offered_by("llamacpp")}, "grammar (llama.cpp)"),
        ({"/v1/models": offered_by("HuggingFaceTB")}, "free text"),
        ({"/v1/models": (200, '{"data": [{"owned_by": "x"}, {"owned_by": "vllm"}]}')}, "choice (vLLM)"),
        ({"/v1/models": (200, '{"data": {"owned_by": "vllm"}}')}, "free text"),
        ({"/v1/models": (200, '{"data": [1, null, {}]}')}, "free text"),
        ({"/v1/models": (200, '"vllm"')}, "free text"),
        ({"/v1/models": (200, "<html>vllm</html>")}, "free text"),
        ({"/v1/models": (405, "{}")}, "free text"),
        ({"/v1/models": (501, "{}")}, "free text"),
        ({}, "free text"),
    ],
    ids=str,
)
def test_auto_believes_what_the_server_says_and_nothing_else(
    server: Server, pages: dict[str, Reply], name: str
) -> None:
    server.pages = pages
    assert dialect_of(endpoint(server), CHAT).name == name


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503])
def test_auto_does_not_guess_while_a_server_is_not_ready(server: Server, status: int) -> None:
    """It could be another way of asking than yesterday's, and other answers."""
    server.pages = {"/v1/models": (status, "{}")}
    with pytest.raises(ModelError, match=str(status)):
        dialect_of(endpoint(server), CHAT)


def test_what_is_told_is_not_asked(server: Server) -> None:
    names = [dialect_of(endpoint(server), CHAT, way).name for way in ("none", "llamacpp", "vllm")]
    assert names == ["free text", "grammar (llama.cpp)", "choice (vLLM)"]
    assert server.looked == ["/version"], "vLLM's field has another name in old versions"


@pytest.mark.parametrize(
    ("version", "field"),
    [
        ("0.6.4.post1", "guided_choice"),
        ("0.11.2", "guided_choice"),
        ("v0.12.0", "structured_outputs"),
        ("0.28.0rc1", "structured_outputs"),
        ("1.0", "structured_outputs"),
        ("nightly", "structured_outputs"),
        (None, "structured_outputs"),
    ],
)
def test_vllms_field_is_that_of_its_version(server: Server, version: str | None, field: str) -> None:
    if version is not None:
        server.pages = {"/version": (200, json.dumps({"version": version}))}
    body = dialect_of(endpoint(server), CHAT, "vllm").request(last_prompt(CHAT)).body
    assert {"guided_choice", "structured_outputs"} & body.keys() == {field}
    assert body[field] == (NAMES if field == "guided_choice" else {"choice": NAMES})


@pytest.mark.parametrize("owner", ["llamacpp", "somebody"])
def test_scores_of_labels_are_refused_where_they_are_not_exact(server: Server, owner: str) -> None:
    server.pages = {"/v1/models": offered_by(owner)}
    with pytest.raises(ConfigError, match="--label-scores: only vLLM"):
        dialect_of(endpoint(server), CHAT, label_scores=True)
    assert isinstance(dialect_of(endpoint(server), CHAT, "vllm", label_scores=True), Scored)


# What is sent.

MESSAGES = [
    {"role": "system", "content": f"Label the emotion of each line: {', '.join(NAMES)}."},
    {"role": "user", "content": "Mara: Who left the window open?\nTomas: I did.\nTomas feels"},
]
GREEDY = {"model": "m", "temperature": 0.0, "frequency_penalty": 0.0}


def test_a_free_chat_request_has_only_fields_that_every_server_knows(server: Server) -> None:
    request = dialect_of(endpoint(server), CHAT, "none").request(last_prompt(CHAT))
    assert (request.path, request.body) == ("/chat/completions", GREEDY | {"max_tokens": 10, "messages": MESSAGES})
    longer = dialect_of(endpoint(server), CHAT, "none", answer_tokens=24).request(last_prompt(CHAT))
    assert longer.body == request.body | {"max_tokens": 24}


def test_a_plain_prompt_goes_to_completions_and_stops_at_its_own_end(server: Server) -> None:
    request = dialect_of(endpoint(server), PLAIN, "none").request(last_prompt(PLAIN))
    names = ", ".join(NAMES).lower()
    text = (
        f"A scene. After each line, the emotion of its speaker: {names}.\n\n"
        "Mara: Who left the window open?\nTomas: I did.\n(Tomas feels"
    )
    assert (request.path, request.body) == (
        "/completions",
        GREEDY | {"max_tokens": 10, "prompt": text, "stop": [")"]},
    )


def test_vllms_choices(server: Server) -> None:
    chat = dialect_of(endpoint(server), CHAT, "vllm").request(last_prompt(CHAT))
    assert chat.path == "/chat/completions"
    assert chat.body == GREEDY | {
        "max_tokens": len("Powerful") + 2,
        "messages": MESSAGES,
        "structured_outputs": {"choice": NAMES},
        "repetition_penalty": 1.0,
    }
    plain = dialect_of(endpoint(server), PLAIN, "vllm").request(last_prompt(PLAIN))
    assert plain.path == "/completions"
    assert plain.body["structured_outputs"] == {"choice": [f" {name.lower()}" for name in NAMES]}
    assert plain.body["prompt"] == list(last_prompt(PLAIN).ids)


def test_llama_cpps_grammar(server: Server) -> None:
    request = dialect_of(endpoint(server), CHAT, "llamacpp").request(last_prompt(CHAT))
    assert request.path == "/chat/completions"
    grammar = 'root ::= "Joyful" | "Mad" | "Neutral" | "Peaceful" | "Powerful" | "Sad" | "Scared"'
    assert request.body == GREEDY | {
        "max_tokens": len("Powerful") + 2,
        "messages": MESSAGES,
        "grammar": grammar,
        "repeat_penalty": 1.0,
    }
    plain = dialect_of(endpoint(server), PLAIN, "llamacpp").request(last_prompt(PLAIN))
    assert (plain.path, plain.body["prompt"]) == ("/completions", list(last_prompt(PLAIN).ids))


def test_a_choice_has_the_space_that_labels_have_in_this_models_prompt(server: Server) -> None:
    prompter = Prompter(llama2_style_tokenizer(), load_prompt("instruct"), EMORYNLP)
    body = dialect_of(endpoint(server), prompter, "vllm").request(last_prompt(prompter)).body
    assert body["structured_outputs"] == {"choice": [f" {name}" for name in NAMES]}


def test_scored_labels_are_the_joined_ids(server: Server) -> None:
    prompt = last_prompt(CHAT)
    request = dialect_of(endpoint(server), CHAT, "vllm", label_scores=True).request(prompt)
    assert request.path == "/completions"
    assert request.body == {
        "model": "m",
        "prompt": [[*prompt.ids, *answer] for answer in CHAT.answer_ids],
        "prompt_logprobs": 0,
        "max_tokens": 1,
        "temperature": 0.0,
    }


@pytest.mark.parametrize("name", ['say "no"', "a\\b", "très gêné", "😢", "in love", "x | y", "Sad", "Sadness"])
def test_a_grammar_has_exactly_the_choices(name: str) -> None:
    choices = (name, "other", "Sadness!")
    literal = re.compile(r'"((?:[^"\\]|\\.)*)"')
    grammar = gbnf(choices)
    assert tuple(re.sub(r"\\(.)", r"\1", text) for text in literal.findall(grammar)) == choices
    assert literal.sub("L", grammar) == "root ::= L | L | L"


def test_the_longest_label_fits_even_byte_by_byte(server: Server) -> None:
    prompter = Prompter(chatml_tokenizer(), load_prompt("instruct"), LabelSet(("Sad", "très gêné 😢")))
    body = dialect_of(endpoint(server), prompter, "vllm").request(last_prompt(prompter)).body
    assert body["max_tokens"] == len("très gêné 😢".encode()) + 2


# What is read.


def chat_choice(content: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize("text", ["Sad", "", " \n", "Sad 😢", "<html>", "x" * 10_000])
def test_text_is_read_as_it_is(text: str) -> None:
    dialect = Written("free text", "m", 10)
    assert dialect.read(chat_choice(text)).text == text
    assert dialect.read({"choices": [{"text": text}]}).text == text


@pytest.mark.parametrize("message", [{"role": "assistant", "content": None}, {"role": "assistant"}], ids=str)
def test_no_text_of_an_answer_that_ended_is_an_empty_one(message: dict[str, Any]) -> None:
    """Such as a refusal, or a reason that used up all tokens; asked again, the server says the same."""
    dialect = Written("free text", "m", 10)
    for reason in ("stop", "length", "content_filter"):
        assert dialect.read({"choices": [{"message": message, "finish_reason": reason}]}).text == ""
    assert dialect.read({"choices": [{"text": None, "finish_reason": "stop"}]}).text == ""
    for unfinished in ({}, {"finish_reason": None}):
        with pytest.raises(ValueError, match="expected text"):
            dialect.read({"choices": [{"message": message} | unfinished]})


def test_what_stands_behind_the_end_of_an_answer_is_left_off() -> None:
    """`transformers serve` leaves the stop text in, others cut it."""
    dialect = Written("free text", "m", 10, stop=")")
    for text in (" sad", " sad)", " sad)\nMara: Hm (Mara feels mad)"):
        assert dialect.read({"choices": [{"text": text}]}).text == " sad"


def test_half_a_character_does_not_spoil_the_table() -> None:
    assert Written("free text", "m", 10).read(chat_choice(json.loads('"Sad \\ud83d"'))).text == "Sad ?"


@pytest.mark.parametrize(
    "found",
    [None, [], "<html>", {}, {"choices": []}, {"choices": [{}]}, chat_choice(None), chat_choice(["a"]), chat_choice(3)],
    ids=str,
)
def test_another_form_is_not_read(found: Any) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        Written("free text", "m", 10).read(found)


ANSWERS = ((7, 8, 2), (9, 2))
SCORED = Scored("m", ANSWERS, ("Joyful", "Mad"), end=1)


def token(logprob: Any, word: str | None = None) -> dict[str, Any]:
    return {"logprob": logprob, "rank": 1, "decoded_token": word}


def scored(**changes: Any) -> dict[str, Any]:
    """As vLLM answers: per prompt token, a map from its id; null for the first."""
    joyful = [None, {"5": token(-9.0)}, {"7": token(-1.0, "Joy")}, {"8": token(-0.5, "ful")}, {"2": token(-0.25)}]
    mad = [None, {"5": token(-9.0)}, {"9": token(-2.0, "Mad")}, {"2": token(-0.125, "<|im_end|>")}]
    choices = [{"index": 1, "text": "x", "prompt_logprobs": mad}, {"index": 0, "text": "y", "prompt_logprobs": joyful}]
    choices[0] |= changes
    return {"choices": choices}


def test_log_likelihoods_are_the_sums_over_label_and_end() -> None:
    found = SCORED.read(scored())
    assert found.text is None
    assert found.log_likelihoods == (-1.75, -2.125)
    assert SCORED.read(scored(prompt_logprobs=[{"9": token(-9999.0)}, {"2": token(0.0)}])).log_likelihoods == (
        -1.75,
        -9999.0,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 0},
        {"index": 7},
        {"prompt_logprobs": None},
        {"prompt_logprobs": []},
        {"prompt_logprobs": [{"2": token(-1.0)}]},
        {"prompt_logprobs": [{"8": token(-1.0)}, {"2": token(-1.0)}]},
        {"prompt_logprobs": [{"9": token(math.nan)}, {"2": token(-1.0)}]},
        {"prompt_logprobs": [{"9": token(-math.inf)}, {"2": token(-1.0)}]},
        {"prompt_logprobs": [{"9": token(1.5)}, {"2": token(-1.0)}]},
        {"prompt_logprobs": [{"9": token("many")}, {"2": token(-1.0)}]},
        {"prompt_logprobs": [{"9": {}}, {"2": token(-1.0)}]},
    ],
    ids=str,
)
def test_log_likelihoods_in_another_form_are_not_read(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        SCORED.read(scored(**changes))


def test_ids_of_another_tokenizer_are_noticed() -> None:
    with pytest.raises(ValueError, match=r"another tokenizer: the ids of 'Mad' are .*' the'.*model\.base"):
        SCORED.read(scored(prompt_logprobs=[{"9": token(-2.0, " the")}, {"2": token(-1.0)}]))


@pytest.mark.parametrize("word", [" Mad", "\u2581Mad", "\ufffd", None])
def test_pieces_that_only_look_different_are_the_same(word: str | None) -> None:
    entries = [{"9": token(-2.0, word)}, {"2": token(-1.0)}]
    assert SCORED.read(scored(prompt_logprobs=entries)).log_likelihoods == (-1.75, -3.0)
