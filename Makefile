# make quickstart  install, run pFedMe, FedAvg and no federation on one small data set, and compare them
# make test        install, and everything that a change has to pass
#
# Both install into .venv first, once; PYTHON=python3.12 chooses another interpreter for it.

PYTHON ?= python3
RESULTS ?= results/quickstart
NOW := $(shell date +%Y%m%d-%H%M%S)
RUNS := $(foreach method,pfedme fedavg local,$(RESULTS)/$(NOW)-$(method))

.PHONY: install quickstart test mypy pytest
.DELETE_ON_ERROR:

install: .venv/installed

quickstart: .venv/installed
	.venv/bin/fedtl run quickstart --out $(word 1,$(RUNS))
	.venv/bin/fedtl run quickstart strategy.name=fedavg --out $(word 2,$(RUNS))
	.venv/bin/fedtl run quickstart strategy.name=local --out $(word 3,$(RUNS))
	.venv/bin/fedtl plot $(RUNS) -o $(RESULTS)/comparison.png

test: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	@$(MAKE) --no-print-directory --jobs 2 mypy pytest

mypy:
	.venv/bin/mypy

# Three processes for two processors: the tests that deploy mostly wait. Who shares one: tests/conftest.py.
pytest:
	.venv/bin/pytest -m "not slow" --numprocesses 3 --durations 20

.venv/bin/python:
	$(PYTHON) -m venv .venv

# A stamp: newer than what it was installed from, or it is installed again.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python -m pip install -c constraints.txt -e ".[dev,watch]"
	touch $@
