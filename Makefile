# make quickstart    the main experiment on real digits, minutes on two CPU cores
# make test          all tests
# make bench         speed beside plain formulations; make gpu: checks and speed on a GPU, if there is one
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: venv quickstart test lint bench gpu clean

venv: $(VENV)/installed

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

quickstart: venv
	$(BIN)/python edm/reproduce.py regimes --preset quickstart

test: venv
	$(BIN)/python tests/run.py

lint: venv
	$(BIN)/ruff check .

bench: venv
	$(BIN)/python tests/benchmarks/table.py

gpu: venv
	$(BIN)/python tests/benchmarks/gpu.py

# Removes what these targets made and can make again; data sets, runs and samples of your own stay.
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache datasets/quickstart* training/quickstart* evaluation/quickstart*
	find edm tests -name __pycache__ -type d -prune -exec rm -rf {} +
