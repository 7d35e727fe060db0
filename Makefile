PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit bench clean

demo: $(VENV)/.all
	rm -rf demo
	$(BIN)/twintrack demo demo

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/pytest

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/kernels.py --runs 3 --gigavoxels 0.5
	$(BIN)/python benchmarks/engine.py --runs 3 --cases 6
	$(BIN)/python benchmarks/memory.py

# One environment; each stamp adds an extra to it, and is made anew when the requirements change.
$(VENV)/.%: pyproject.toml setup.py $(wildcard twintrack_core/kernels/*.pyx twintrack_core/kernels/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
