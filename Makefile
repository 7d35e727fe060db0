PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit fuzz bench bench-peers clean

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

# Every parser on spoiled files, FUZZ_SECONDS for each; `make fuzz WRITE=--write` puts the numbers into SECURITY.md.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.fuzz
	PYTHONPATH=tests nice $(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS) $(WRITE)

# Answers and times of every contender, then the tables of docs/performance.md; `make bench WRITE=--write` puts them there.
bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks --benchmark-enable --megavoxels 0.25 -k "region or softmax" \
		--benchmark-max-time 0.05 --benchmark-min-rounds 3 --benchmark-columns median,min,max,rounds
	$(BIN)/python -m benchmarks.tables $(WRITE)

# The same with torch and the libraries on it, in an environment of its own, for what they take part in.
bench-peers:
	$(MAKE) VENV=.venv-peers .venv-peers/.peers
	.venv-peers/bin/pytest benchmarks -k "metrics or job"
	.venv-peers/bin/pytest tests/calibrators/test_binning.py tests/kernels/test_device.py tests/metrics/test_calibration.py \
		tests/metrics/test_surface.py plugins/curvas/tests/test_ece.py plugins/venn-abers/tests/test_calibrator.py
	.venv-peers/bin/python -m benchmarks.tables --only fits-and-metrics --only job $(WRITE)

# One environment; each stamp adds an extra to it, and is made anew when the requirements change.
$(VENV)/.%: pyproject.toml setup.py plugins/curvas/pyproject.toml plugins/venn-abers/pyproject.toml \
		$(wildcard twintrack_core/kernels/*.pyx twintrack_core/kernels/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]' \
		--editable plugins/curvas --editable plugins/venn-abers
	touch $@

clean:
	rm -rf $(VENV) .venv-peers build demo *.egg-info plugins/*/*.egg-info plugins/*/build
