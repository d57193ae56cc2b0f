"""The command line: thin commands over recipes, and everything about terminals. `main` is its entry point."""

from erc_llm.cli.app import main

__all__ = ["main"]
