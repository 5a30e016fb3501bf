# Every target sets up what it needs; VENV=<folder> puts the environment elsewhere, JOBS=<n> tests
# on more processes.
VENV ?= .venv
PYTHON ?= python3
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.sfseg-installed

.DEFAULT_GOAL := help
.PHONY: help install demo docs pages test test-slow lint types bench results tables clean

help: ## Show this list
	@grep -E '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## Make the virtual environment and install sfseg into it

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,parity,generate]'
	@touch $@

demo: install ## Train a source model on drawn streets of a game and adapt it to a city
	$(BIN)/sfseg-train task_name=demo method=uniuvpt

docs: export SFSEG_GALLERY = 1
docs: pages ## The site, in build/docs, with the examples of its gallery run

pages: install ## The site with what a quick look needs: no example is run
	$(BIN)/python -m sphinx -q -W --keep-going -j $(JOBS) docs build/docs

test: install lint types pages ## Lint, types, pages and the test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-slow: install ## The tests that take minutes
	$(BIN)/python -m pytest -m slow -s

lint: install ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## Check types
	$(BIN)/mypy

bench: install ## Print speed ratios measured in one run
	$(BIN)/python scripts/bench_data.py
	$(BIN)/python scripts/bench_metrics.py

results: install ## List the rows of docs/results.md and how far they are
	@$(BIN)/python scripts/results.py list

result-%: install ## Measure a row; FORCE=1 anew, REPEAT=1 compares with a second run
	@$(BIN)/python scripts/results.py measure $* $(if $(FORCE),--force) $(if $(REPEAT),--repeat)

tables: install ## Make the tables and charts of docs/results.md
	@$(BIN)/python scripts/results.py tables

clean: ## Remove caches and build products, not the environment or results
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
