"""The public face: complete, light to import, and the README's example as printed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import erc_llm


def test_every_public_name_is_there() -> None:
    for name in erc_llm.__all__:
        assert getattr(erc_llm, name) is not None, name
    assert erc_llm.Predictor.__name__ == "Predictor"
    assert not hasattr(erc_llm, "no_such_name")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, erc_llm; erc_llm.read_corpus, erc_llm.Dialogue; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_load_takes_what_the_predictors_load_takes_with_the_same_defaults() -> None:
    """A rule that only one of them applied would give two answers for one run."""
    from erc_llm.predictor import load

    public, own = (inspect.signature(function).parameters for function in (erc_llm.load, load))
    assert set(public) == set(own)
    assert {name: p.default for name, p in public.items()} == {name: p.default for name, p in own.items()}
