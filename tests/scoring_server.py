"""A stand-in for vLLM's `prompt_logprobs`: what a model server of our own answers with, from a real (tiny) model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from erc_llm.models.loading import LoadedModel
from tests.model_server import Reply
from tests.tiny_models import TinyModel


def scoring_like_vllm(tiny: TinyModel | LoadedModel) -> Callable[[dict[str, Any], int], Reply]:
    """Answers `/completions` with `prompt_logprobs` as vLLM documents it, from a real (tiny) model."""

    def reply(request: dict[str, Any], _: int) -> Reply:
        assert request["prompt_logprobs"] == 0
        choices = []
        for index, ids in enumerate(request["prompt"]):
            with torch.inference_mode():
                logits = tiny.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            entries: list[Any] = [None]
            for k, token in enumerate(ids[1:]):
                value = {"logprob": float(logits[k, token]), "rank": 1, "decoded_token": tiny.tokenizer.decode([token])}
                entries.append({str(token): value})
            choices.append({"index": index, "text": "?", "finish_reason": "length", "prompt_logprobs": entries})
        return 200, json.dumps({"object": "text_completion", "choices": choices[::-1]})

    return reply
