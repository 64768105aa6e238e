# Each target makes the environment it needs, from nothing if it must:
#   make test                           in .venv
#   make test VENV=/somewhere/else      in another environment
#   make test PYTHON=python3.11         made with another interpreter
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
WORKERS ?= 2
PYTEST_ARGS ?=

# One thread per process: small networks gain nothing from more, and parallel processes would fight for cores.
export OMP_NUM_THREADS ?= 1

BIN := $(VENV)/bin
RUN := $(BIN)/python
STAMP := $(VENV)/.installed-$(EXTRAS)

.PHONY: help install demo test test-slow lint type format check docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     a short demonstration, from nothing"
	@echo "make test     all fast tests              make test-slow  all slow ones: hours of learning, kills, damage"
	@echo "make check    lint, type, docs and test: what a change must pass"
	@echo "make lint     ruff: rules and format      make type    mypy --strict"
	@echo "make format   put the code in format      make docs    check links and code blocks"
	@echo "make bench    measure speed               make install only make the environment"

install: $(STAMP)

$(RUN):
	@echo "== Making the environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt holds versions for Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv "$(VENV)"

$(STAMP): constraints.txt pyproject.toml | $(RUN)
	@echo "== Installing mbrl-wrappers[$(EXTRAS)] and what it needs (a few minutes the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch "$@"

demo: $(STAMP)
	@echo "== Running the demonstration"
	@$(RUN) scripts/demo.py

test: $(STAMP)
	@echo "== Running the tests on $(WORKERS) processes"
	@$(RUN) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(STAMP)
	@echo "== Running the slow tests on $(WORKERS) processes"
	@$(RUN) -m pytest -n $(WORKERS) -m slow --timeout 3600 $(PYTEST_ARGS)

lint: $(STAMP)
	@echo "== Checking rules and format"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

type: $(STAMP)
	@echo "== Checking types"
	@$(RUN) -m mypy

format: $(STAMP)
	@echo "== Putting the code in format"
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: $(STAMP)
	@echo "== Checking the links and code blocks of the documents"
	@$(RUN) scripts/check_docs.py

check: lint type docs test

bench: $(STAMP)
	@echo "== Measuring speed (close other programs first)"
	@$(RUN) scripts/bench.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
