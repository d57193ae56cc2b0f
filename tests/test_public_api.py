"""The public face: complete, light to import, and the README's example as printed."""

from __future__ import annotations

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
