# One command a habit. PYTHON picks the interpreter: `make test PYTHON=python3.12`.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv/py$(VERSION)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH := $(VENV)/.bench
JOBS ?= auto
OUT ?= results/demo

.PHONY: demo science bench test lint format clean

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "jaxsoft needs Python 3.11 or newer; PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[data,test,lint]'
	@touch $(READY)

demo: $(READY)  ## 1,024 runs on real digits, the table and the pictures
	$(BIN)/jaxsoft sweep --out $(OUT)
	$(BIN)/jaxsoft report $(OUT)

science: $(READY)  ## every experiment's claims: FULL=1 at full size, CHEAP=1 the quicker half
	$(BIN)/python -m experiments.science $(if $(FULL),--full) $(if $(CHEAP),--cheap)

$(BENCH): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[data,bench]'
	@touch $(BENCH)

bench: $(BENCH)  ## speed beside other libraries and beside the machine's limit: QUICK=1 smaller, both fail under a floor
	$(BIN)/python -m experiments.benchmarks.sweeps $(if $(QUICK),--quick)

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv results build dist .pytest_cache .ruff_cache .hypothesis
