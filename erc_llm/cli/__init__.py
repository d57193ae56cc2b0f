"""The command line: thin commands over recipes, and the views that they print. `main` is the entry point."""

from erc_llm.cli.app import main

__all__ = ["main"]
