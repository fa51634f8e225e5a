# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
# Installing is keyed by the lock and the project file: nothing is installed again while both stay the same.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | tr ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help setup demo test fmt check bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv from requirements.lock (Python 3.11 or 3.12)

$(STAMP):
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] < (3, 13), "Python 3.11 or 3.12 is needed; name one: make setup PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup ## post-train the tiny model on two cores; prints where the report lies
	$(VENV)/bin/python pipelines/reca.py

test: setup ## run the whole test suite on two processes
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile -m "not ray"
# Each file that starts Ray has a process of its own: several Rays one after another in one process stall now and then.
	grep -rl --include='test_*.py' 'mark\.ray' tests | sort | OMP_NUM_THREADS=1 xargs -P 2 -n 1 $(VENV)/bin/pytest -m ray

fmt: setup ## format the code and sort the imports
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format .

check: setup ## lint, format check and strict types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright

bench: setup ## run the benchmarks; each prints a ratio and writes its results beside itself
	@set -e; for script in $$(grep -l '__main__' benchmarks/*.py); do echo "== $$script"; $(VENV)/bin/python $$script; done
