"""`erc-llm plan`: what it prints, its JSON, its exit codes, and the shipped configurations on their cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Command, refused

ROOT = Path(__file__).parents[2]

SHIPPED = [
    ("llama2-7b-qlora-8gb", "RTX 4060"),
    ("llama2-7b-qlora-8gb", "RTX 3070"),
    ("llama2-7b-qlora", "RTX 3060 12GB"),
    ("llama2-7b-qlora", "RTX 4070"),
    ("llama2-7b-qlora-16gb", "T4"),
    ("llama2-7b-qlora-16gb", "RTX 4060 Ti 16GB"),
    ("llama2-7b-qlora-24gb", "RTX 3090"),
    ("llama2-7b-qlora-24gb", "RTX 4090"),
    ("llama2-7b-qlora-24gb", "A10"),
    ("llama2-7b-lora-80gb", "A100 80GB"),
    ("llama2-7b-lora-80gb", "H100 80GB"),
    ("llama2-7b-chat-qlora", "RTX 3060 12GB"),
]


def _json(erc: Command, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = erc("plan", *arguments, "--json")
    assert done.code == code, done.err
    read: dict[str, Any] = json.loads(done.out)
    return read


@pytest.mark.parametrize(("config", "card"), SHIPPED)
def test_a_shipped_configuration_fits_its_card(config: str, card: str, erc: Command) -> None:
    plan = _json(erc, config, "--gpu", card)
    assert plan["fit"]["fits"]
    assert plan["fit"]["card"] == card


@pytest.mark.emorynlp
@pytest.mark.parametrize(("config", "card"), SHIPPED)
def test_so_it_does_on_emorynlp(config: str, card: str, erc: Command, emorynlp: Path) -> None:
    plan = _json(erc, config, f"corpus.path={emorynlp / 'aligned'}", "--gpu", card)
    assert plan["fit"]["fits"]
    assert plan["epoch"]["prompt_tokens"] > 5 * plan["epoch"]["tree_tokens"]


def test_every_configuration_of_a_large_model_says_that_it_is_not_measured() -> None:
    files = sorted((ROOT / "configs").glob("llama2-*.yaml"))
    assert {file.stem for file in files} == {config for config, _ in SHIPPED}
    assert [file.name for file in files if "Not measured" not in file.read_text("utf-8")] == []


def test_tables_bars_and_a_verdict_are_printed(erc: Command) -> None:
    done = erc("plan", "llama2-7b-qlora", "--gpu", "RTX 4090")
    assert done.code == 0
    for words in (
        "6,738,415,616 parameters, 39,976,960 trainable",
        "Computed, not measured",
        "weights (NF4)",
        "█",
        "as one prompt per utterance",
        "estimated at 2.9 characters a token",
        "note: corpus.path: emorynlp/aligned is not there",
        "to download 13.5 GB",
        "It fits RTX 4090",
        "Largest forests that fit",
    ):
        assert words in done.out, words


def test_without_a_card_nothing_is_said_about_fitting(erc: Command) -> None:
    done = erc("plan", "llama2-7b-qlora")
    assert done.code == 0
    assert "Give --gpu or --memory" in done.out


def test_what_does_not_fit_exits_with_1_and_names_what_would(erc: Command) -> None:
    done = erc("plan", "llama2-7b-lora-80gb", "--gpu", "RTX 3060 12GB")
    assert done.code == 1
    assert "It does not fit RTX 3060 12GB" in done.out
    assert "model.quantisation=nf4" in done.out
    plan = _json(erc, "llama2-7b-lora-80gb", "--gpu", "RTX 3060 12GB", code=1)
    fits = _json(erc, "llama2-7b-lora-80gb", *plan["fit"]["nearest"], "--gpu", "RTX 3060 12GB")
    assert fits["fit"]["fits"]
    nothing = erc("plan", "llama2-7b-qlora", "--memory", "3GB")
    assert nothing.code == 1
    assert "use a smaller one" in nothing.out


def test_the_corpus_of_the_configuration_is_measured(config: Path, erc: Command) -> None:
    plan = _json(erc, str(config), "--memory", "8GB")
    assert plan["base"]["shape_from"] == "folder"
    assert plan["epoch"]["corpus_found"]
    assert plan["epoch"]["characters_per_token"] is None
    assert plan["epoch"]["tree_tokens"] > 0
    assert plan["measured"] is False
    assert plan["download_bytes"] == 0


def test_a_peak_is_the_sum_of_what_is_listed(erc: Command) -> None:
    plan = _json(erc, "llama2-7b-qlora")
    for peak in plan["peaks"].values():
        assert sum(peak["components"].values()) == peak["bytes"]
    assert plan["fit"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "GTX 970"), "no card 'GTX 970'"),
        (("--gpu", "A100"), "may be A100 40GB or A100 80GB"),
        (("--memory", "plenty"), "'plenty' is not an amount of memory"),
        (("--memory", "24GB", "--gpu", "T4"), "give one of them"),
        (("model.base=nobody/nothing-1b",), "hf download nobody/nothing-1b config.json"),
        (("lora.target_modules=[query]",), "matches no linear layer"),
        (("prompt.template=nothing",), "no prompt template 'nothing'"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, ...], words: str, erc: Command) -> None:
    refused(erc("plan", "llama2-7b-qlora", *arguments), words)


def test_an_unknown_architecture_is_refused(tmp_path: Path, erc: Command) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}', "utf-8")
    refused(erc("plan", "llama2-7b-qlora", f"model.base={tmp_path}"), "model_type is 'mamba'", "expected one of")


def test_cards_without_bf16_are_noted(erc: Command) -> None:
    assert "T4 does not multiply bf16; use model.precision=auto" in erc("plan", "llama2-7b-qlora", "--gpu", "T4").out
    assert "planned with fp16" in erc("plan", "llama2-7b-qlora-16gb", "--gpu", "T4").out


PLAN = """
import sys, time
started = time.process_time()
sys.argv = ["erc-llm", "plan", *sys.argv[1:]]
from erc_llm.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
print("HEAVY", sorted({"torch", "transformers", "peft", "trl", "bitsandbytes"} & set(sys.modules)))
print("SECONDS", time.process_time() - started)
sys.exit(code)
"""


@pytest.mark.parametrize("config", sorted({config for config, _ in SHIPPED}))
def test_it_imports_no_torch_and_takes_less_than_two_seconds(config: str) -> None:
    """Processor time, so that a busy machine does not fail the test."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-c", PLAN, config, "--gpu", "A100 80GB")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert float(done.stdout.rpartition("SECONDS ")[2]) < 2
