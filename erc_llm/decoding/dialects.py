"""Requests to model servers and the reading of their responses: one dialect per kind of server.

Input: a prompt as ids and as text, the labels as answers. Output: a request, and from its response's JSON a
`ServedResponse`: the generated text, or the log-likelihood of every label.
Does not depend on: connections, files; of a server only on how it describes itself (`dialect_of`).

Formats, as the servers document them; docs/served-models.md has what was measured on a real one:

- vLLM, choices: `structured_outputs: {"choice": [...]}`; before 0.12 `guided_choice: [...]`, which newer versions no
  longer accept. https://docs.vllm.ai/en/latest/features/structured_outputs/
- vLLM, log-likelihoods: `/completions` takes token ids as prompts and gives with `prompt_logprobs: 0` the
  log-probability of each of their tokens.
  https://docs.vllm.ai/en/latest/serving/openai_compatible_server/#extra-parameters
- llama.cpp, choices: `grammar` in GBNF, which its OpenAI-compatible routes take as its own `/completion` does.
  https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md and, for GBNF,
  https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md

`top_logprobs` of other servers are not used: they show the first tokens of some labels only, never whole labels with
their ends, so the distribution they give is another one than the exact one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from erc_llm.errors import ConfigError
from erc_llm.models.endpoint import Endpoint, Request
from erc_llm.prompting.messages import PromptText
from erc_llm.prompting.prompter import Prompter

Constrain = Literal["auto", "none", "vllm", "llamacpp"]
_STRUCTURED_SINCE = (0, 12)  # vLLM's version without `guided_choice`


@dataclass(frozen=True, slots=True)
class ServedResponse:
    """What a server answered about one target: text, or a number for each label.

    Attributes:
        text: What it wrote, without what ends an answer; None where labels were scored.
        log_likelihoods: (labels,) ln p(label and its end tokens), in nats; None where text was written.
    """

    text: str | None = None
    log_likelihoods: tuple[float, ...] | None = None


class Dialect(Protocol):
    """A way to ask and to read.

    Attributes:
        name: In words, for the predictions table.
    """

    @property
    def name(self) -> str:
        """In words, for the predictions table."""

    def request(self, prompt: PromptText) -> Request:
        """What is posted about a target."""

    def read(self, found: Any) -> ServedResponse:
        """What the answer's JSON says.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: It has another form.
        """


@dataclass(frozen=True)
class Written:
    """The model writes, greedily: freely, or held to choices by fields that its server knows.

    Attributes:
        name: In words.
        model: The name the server knows the model by.
        max_tokens: Most tokens of an answer.
        stop: Text that ends an answer, where no special token does.
        fields: Further fields of the request's body.
        choices: What the server was told to hold the answer to; empty: nothing.
        ids: Whether a prompt without chat messages is sent as token ids: the joined ones, and not those that a server
            makes of the text in one piece. Both vLLM and llama.cpp take them; the server must have this tokenizer.
    """

    name: str
    model: str
    max_tokens: int
    stop: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    ids: bool = False

    def request(self, prompt: PromptText) -> Request:
        """Chat messages where there are any, else the prompt itself."""
        # A checkpoint's own penalties would bend a greedy answer; `transformers serve` sets its one by this field.
        greedy = {"temperature": 0.0, "frequency_penalty": 0.0}
        body: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens} | greedy
        if self.stop:
            body["stop"] = [self.stop]
        if prompt.messages:
            turns = [{"role": role, "content": content} for role, content in prompt.messages]
            return Request("/chat/completions", body | {"messages": turns} | self.fields)
        plain = {"prompt": list(prompt.ids) if self.ids else prompt.text}
        return Request("/completions", body | plain | self.fields)

    def read(self, found: Any) -> ServedResponse:
        """The first choice's text; an empty one is an answer too, and so is none where the server says it ended."""
        choice = found["choices"][0]
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        if text is None and choice.get("finish_reason"):
            text = ""
        if not isinstance(text, str):
            raise ValueError(f"expected text, found {text!r}")
        if self.stop:  # some servers leave it in
            text = text.partition(self.stop)[0]
        return ServedResponse(text=text.encode(errors="replace").decode())


@dataclass(frozen=True)
class Scored:
    """Every label is scored exactly: its ids behind the prompt's, all in one request (vLLM).

    Attributes:
        model: The name the server knows the model by.
        answers: Token ids of each label as an answer, end tokens included.
        texts: The labels as text.
        end: How many of an answer's last ids are its end.
    """

    model: str
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    end: int
    name: str = "label log-likelihoods (vLLM prompt_logprobs)"

    def request(self, prompt: PromptText) -> Request:
        """As many prompts as labels; of the one token that must be generated nothing is read."""
        body = {
            "model": self.model,
            "prompt": [[*prompt.ids, *answer] for answer in self.answers],
            "prompt_logprobs": 0,
            "max_tokens": 1,
            "temperature": 0.0,
        }
        return Request("/completions", body)

    def read(self, found: Any) -> ServedResponse:
        """The sums over each answer's tokens.

        The server's own spelling of these tokens must be the label's: ids of another tokenizer would be scored as well.
        """
        choices = sorted(found["choices"], key=lambda choice: int(choice["index"]))
        if [int(choice["index"]) for choice in choices] != list(range(len(self.answers))):
            raise ValueError(f"expected {len(self.answers)} choices, found {len(choices)}")
        sums = []
        for choice, ids, text in zip(choices, self.answers, self.texts, strict=True):
            entries = [
                entry[str(token)] for entry, token in zip(choice["prompt_logprobs"][-len(ids) :], ids, strict=True)
            ]
            _check_words([entry.get("decoded_token") for entry in entries[: len(ids) - self.end]], text)
            sums.append(math.fsum(float(entry["logprob"]) for entry in entries))
        if not all(math.isfinite(x) and x <= 1e-3 for x in sums):
            raise ValueError(f"expected log-probabilities, found {sums}")
        return ServedResponse(log_likelihoods=tuple(sums))


def _check_words(pieces: Sequence[object], text: str) -> None:
    # White space may be lost or written as U+2581 there, and half a character cannot be told from another.
    words = [piece.replace("\u2581", " ") for piece in pieces if isinstance(piece, str) and "\ufffd" not in piece]
    if len(words) == len(pieces) and "".join("".join(words).split()) != "".join(text.split()):
        raise ValueError(f"its tokenizer is another one: the ids of '{text}' are {words} there; check model.base")


def dialect_of(
    endpoint: Endpoint,
    prompter: Prompter,
    constrain: Constrain = "auto",
    *,
    label_scores: bool = False,
    answer_tokens: int = 10,
) -> Dialect:
    """The way to ask a server.

    Args:
        endpoint: The server.
        prompter: Whose prompts are sent.
        constrain: Whether and how answers are held to the labels; `auto`: as the server can that it says it is, in
            `/models`, else not at all.
        label_scores: Ask for log-likelihoods of all labels; vLLM only.
        answer_tokens: Most tokens of a free answer.

    Raises:
        ConfigError: The server cannot score labels.
        ModelError: It cannot be reached, or fails when it is asked what it is.
    """
    server = _server(endpoint) if constrain == "auto" else constrain
    texts, lead = prompter.answer_texts, prompter.frame.lead
    if label_scores:
        if server != "vllm":
            raise ConfigError(
                f"--label-scores: only vLLM can score given tokens, and {endpoint.url} does not say it is one; "
                "leave the option out, or add --constrain vllm if it is"
            )
        end = len(prompter.frame.encoder.markup(prompter.frame.end))
        return Scored(endpoint.model, prompter.answer_ids, texts, end)
    choices = tuple(lead + text for text in texts)
    longest = max(len(text.encode()) for text in choices) + 2  # a choice may be written byte by byte
    if server == "vllm":
        fields = _vllm_choice(endpoint, choices)
        return Written("choice (vLLM)", endpoint.model, longest, fields=fields, choices=choices, ids=True)
    if server == "llamacpp":
        fields = {"grammar": gbnf(choices), "repeat_penalty": 1.0}
        return Written("grammar (llama.cpp)", endpoint.model, longest, fields=fields, choices=choices, ids=True)
    stop = "" if prompter.template.chat else prompter.frame.end
    return Written("free text", endpoint.model, answer_tokens, stop=stop)


def gbnf(choices: Sequence[str]) -> str:
    """A llama.cpp grammar whose texts are exactly these."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in choices)
    return "root ::= " + " | ".join(f'"{text}"' for text in quoted)


def _server(endpoint: Endpoint) -> str:
    """What kind of server it says it is: both name themselves as the owner of their models."""
    models = (endpoint.look("/models") or {}).get("data")
    owners = {str(m.get("owned_by")) for m in models if isinstance(m, dict)} if isinstance(models, list) else set()
    return "vllm" if "vllm" in owners else "llamacpp" if "llamacpp" in owners else "none"


def _vllm_choice(endpoint: Endpoint, choices: Sequence[str]) -> dict[str, Any]:
    """The field of this version of vLLM; the newest where it does not tell."""
    version = str((endpoint.look("/version", root=True) or {}).get("version", ""))
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < _STRUCTURED_SINCE:
        return {"guided_choice": list(choices), "repetition_penalty": 1.0}
    return {"structured_outputs": {"choice": list(choices)}, "repetition_penalty": 1.0}
