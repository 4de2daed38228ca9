# `make demo` runs the main job, `make test` the tests, `make docs` builds the site, `make dist` the wheel.
# Each sets up what it needs; a second run is fast.
# While you work: `make quick` lints, and runs in under a minute the tests that train no run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where the tests' processes share the cores, more threads than one each only get in each other's way.
TEST_THREADS ?= 1
TEST_WORKERS ?= auto
# Files of tests lie in memory where there is plenty of it: they are synced to disk one by one, and soon removed.
TEST_FILES ?= $(shell [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 6000000 ] 2>/dev/null && echo /dev/shm)
# What is imported is compiled once, not by every process that a test starts.
PYTEST = OMP_NUM_THREADS=$(TEST_THREADS) PYTHONDONTWRITEBYTECODE= $(if $(TEST_FILES),TMPDIR=$(TEST_FILES)) \
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

.PHONY: demo test quick mutants docs dist lint format clean

demo: $(VENV)/.demo
	$(BIN)/fut demo --out demo

test: lint
	$(PYTEST)

quick: lint
	$(PYTEST) -m fast -q

# Mutation testing of the mathematics, at low priority; goes on where it was stopped. benchmarks/pages/mutants.md says how to read it.
mutants: $(VENV)/.mutation
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python benchmarks/mutants.py

# The documentation site in build/site; a broken link or a docstring that cannot be read is an error.
docs: $(VENV)/.test
	$(BIN)/python scripts/generate_cli_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The wheel in dist/, from a build folder that holds no file of an earlier build.
dist: | $(BIN)/python
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fut needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@ $(VENV)/.demo

$(VENV)/.mutation: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
