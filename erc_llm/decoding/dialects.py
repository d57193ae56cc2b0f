"""Requests to model servers, and parsing of their responses: one dialect per kind of server.

Input: a prompt as ids and as text, the labels as answers. Output: a request, and from its response's JSON a
`ServedResponse`: the generated text, or the log-likelihood of every label.
Does not depend on: connections, files. `dialect_of` alone queries a server, for its kind and version.

The formats are those that the servers document; docs/served-models.md has measurements on a real one:

- vLLM, choices: `structured_outputs: {"choice": [...]}`; before 0.12 `guided_choice: [...]`, which newer versions no
  longer accept. https://docs.vllm.ai/en/latest/features/structured_outputs/
- vLLM, log-likelihoods: `/completions` takes token ids as prompts and gives with `prompt_logprobs: 0` the
  log-probability of each of their tokens.
  https://docs.vllm.ai/en/latest/serving/openai_compatible_server/#extra-parameters
- llama.cpp, choices: `grammar` in GBNF, which its OpenAI-compatible routes take as its own `/completion` does.
  https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md and, for GBNF,
  https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md

`top_logprobs` of other servers are not used: they cover the first tokens of some labels only, and no complete labels
with their ends, so they do not give the exact distribution.
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
    """A server's response about one target: text, or a score for each label.

    Attributes:
        text: The generated text, without the end of an answer; None if labels were scored.
        log_likelihoods: (labels,) ln p(label and its end tokens), in nats; None if text was generated.
    """

    text: str | None = None
    log_likelihoods: tuple[float, ...] | None = None


class Dialect(Protocol):
    """Builds requests for a kind of server, and parses its responses.

    Attributes:
        name: Name in words, for the predictions table.
    """

    @property
    def name(self) -> str:
        """Name in words, for the predictions table."""

    def request(self, prompt: PromptText) -> Request:
        """The request about a target."""

    def read(self, found: Any) -> ServedResponse:
        """Parse the JSON of a response.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: The JSON has another form.
        """


@dataclass(frozen=True)
class Written:
    """Greedy generation, either free or constrained to choices by fields of the server's API.

    Attributes:
        name: Name in words.
        model: Name of the model on the server.
        max_tokens: Most tokens of an answer.
        stop: Text that ends an answer if no special token does.
        fields: Further fields of the request's body.
        choices: Texts to which the request constrains the answer; empty: none.
        ids: Whether a prompt without chat messages is sent as token ids, joined from its pieces, since a server would
            tokenize the whole text differently. Both vLLM and llama.cpp accept ids; the server must have the same
            tokenizer.
    """

    name: str
    model: str
    max_tokens: int
    stop: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    ids: bool = False

    def request(self, prompt: PromptText) -> Request:
        """A request with chat messages if the prompt has them, else with the prompt itself."""
        # Penalties of a checkpoint would change a greedy answer; `transformers serve` sets its penalty by this field.
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
        """The text of the first choice; an empty text is an answer too, and so is none if the server states an end."""
        choice = found["choices"][0]
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        if text is None and choice.get("finish_reason"):
            text = ""
        if not isinstance(text, str):
            raise ValueError(f"expected text, found {text!r}")
        if self.stop:  # some servers do not remove it
            text = text.partition(self.stop)[0]
        return ServedResponse(text=text.encode(errors="replace").decode())


@dataclass(frozen=True)
class Scored:
    """Exact scores of every label: its ids after those of the prompt, all in one request (vLLM).

    Attributes:
        model: Name of the model on the server.
        answers: Token ids of each label as an answer, including end tokens.
        texts: The labels as text.
        end: Number of an answer's last ids that are its end.
    """

    model: str
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    end: int
    name: str = "label log-likelihoods (vLLM prompt_logprobs)"

    def request(self, prompt: PromptText) -> Request:
        """A request with one prompt per label; the one token that must be generated is ignored."""
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

        The server's text of these tokens must be the label's: it would also score ids of another tokenizer.
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
    # White space may be lost or written as U+2581 there, and all halves of characters look the same.
    words = [piece.replace("\u2581", " ") for piece in pieces if isinstance(piece, str) and "\ufffd" not in piece]
    if len(words) == len(pieces) and "".join("".join(words).split()) != "".join(text.split()):
        raise ValueError(f"the server has another tokenizer: the ids of '{text}' are {words} there; check model.base")


def dialect_of(
    endpoint: Endpoint,
    prompter: Prompter,
    constrain: Constrain = "auto",
    *,
    label_scores: bool = False,
    answer_tokens: int = 10,
) -> Dialect:
    """The dialect for a server.

    Args:
        endpoint: The server.
        prompter: Builds the prompts.
        constrain: Whether and how answers are constrained to the labels; `auto`: as the kind of server in `/models`
            supports it, else not at all.
        label_scores: Request log-likelihoods of all labels; vLLM only.
        answer_tokens: Most tokens of a free answer.

    Raises:
        ConfigError: The server cannot score labels.
        ModelError: The server cannot be reached, or fails when its kind is requested.
    """
    server = _server(endpoint) if constrain == "auto" else constrain
    texts, lead = prompter.answer_texts, prompter.frame.lead
    if label_scores:
        if server != "vllm":
            raise ConfigError(
                f"--label-scores: only vLLM can score given tokens; {endpoint.url} does not identify itself as vLLM; "
                "leave out the option, or add --constrain vllm if it is vLLM"
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
    """A llama.cpp grammar that allows exactly these texts."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in choices)
    return "root ::= " + " | ".join(f'"{text}"' for text in quoted)


def _server(endpoint: Endpoint) -> str:
    """The kind of server by its own statement: both kinds name themselves as the owner of their models."""
    models = (endpoint.look("/models") or {}).get("data")
    owners = {str(m.get("owned_by")) for m in models if isinstance(m, dict)} if isinstance(models, list) else set()
    return "vllm" if "vllm" in owners else "llamacpp" if "llamacpp" in owners else "none"


def _vllm_choice(endpoint: Endpoint, choices: Sequence[str]) -> dict[str, Any]:
    """The request field for the server's version of vLLM; that of the newest version if it states none."""
    version = str((endpoint.look("/version", root=True) or {}).get("version", ""))
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < _STRUCTURED_SINCE:
        return {"guided_choice": list(choices), "repetition_penalty": 1.0}
    return {"structured_outputs": {"choice": list(choices)}, "repetition_penalty": 1.0}
