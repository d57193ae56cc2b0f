"""`python -m erc_llm`: the command `erc-llm`, where a program is asked for by its module."""

from erc_llm.cli.app import main

if __name__ == "__main__":
    main()
