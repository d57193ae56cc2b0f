"""Ollama's Modelfile: the file of weights, our prompt's frame as its template, greedy answers, and where they stop.

Input: a prompter. Output: text.
Does not depend on: weights, Ollama.
"""

from __future__ import annotations

from erc_llm.prompting.prompter import Prompter

MODELFILE = "Modelfile"
_SYSTEM, _PROMPT = "{{ .System }}", "{{ .Prompt }}"


def modelfile(prompter: Prompter, weights: str) -> str:
    """The Modelfile of a merged GGUF file.

    The system message and the user's text go where our own prompt has them. A plain prompt has no frame: the whole
    prompt is the user's text. Ollama adds the beginning-of-sequence token itself, so it is not in the template.

    Args:
        prompter: The prompter of the run.
        weights: Name of the GGUF file beside it.
    """
    frame, labels = prompter.frame, prompter.labels
    template = _PROMPT
    if prompter.template.chat:
        before, behind = frame.around_system
        template = f"{before}{_SYSTEM}{behind}{_PROMPT}{frame.bridge}".removeprefix(frame.encoder.text(frame.bos))
    longest = max(map(len, prompter.answer_ids))
    lines = [
        f"# Labels: {', '.join(labels.names)}. Prompts: erc-llm export-prompts, or erc-llm predict --endpoint.",
        f"FROM ./{weights}",
        f'TEMPLATE """{template}"""',
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {longest}",
        f'PARAMETER stop "{frame.end.strip()}"',
    ]
    return "\n".join(lines) + "\n"
