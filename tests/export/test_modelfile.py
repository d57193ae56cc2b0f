"""Ollama's Modelfile: its template, filled in, is our own prompt."""

from __future__ import annotations

import re

import pytest

from erc_llm.corpus import EMORYNLP
from erc_llm.export.modelfile import modelfile
from erc_llm.prompting.messages import prompt_texts
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_llama2_style"])
@pytest.mark.parametrize("template", ["instruct", "plain"])
def test_its_template_filled_in_is_our_prompt(model: str, template: str, request: pytest.FixtureRequest) -> None:
    tiny: TinyModel = request.getfixturevalue(model)
    prompter = Prompter(tiny.tokenizer, load_prompt(template), EMORYNLP)
    text = modelfile(prompter, "tiny-f16.gguf")
    assert "FROM ./tiny-f16.gguf" in text
    shown = re.search(r'TEMPLATE """(.*)"""', text, re.DOTALL)
    assert shown is not None
    for prompt in prompt_texts(prompter, dialogue(1, 4)):
        filled = shown[1]
        if template == "plain":
            assert filled.replace("{{ .Prompt }}", prompt.text) == prompt.text
            continue
        said = dict(prompt.messages)
        if "system" not in said:  # the system text opens the user's turn
            system, _, said["user"] = said["user"].partition("\n\n")
            said["system"] = system
        whole = filled.replace("{{ .System }}", said["system"]).replace("{{ .Prompt }}", said["user"])
        assert whole == prompt.text
    (stop,) = re.findall(r'PARAMETER stop "(.*)"', text)
    assert stop
    assert prompter.frame.end.strip() == stop
