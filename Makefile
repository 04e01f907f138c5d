# The README's commands. Needs make, git and Python 3.11 or 3.12; everything else goes into .venv.
#
#   make install  install into .venv, nothing else
#   make report   execute the notebooks on the embedded dataset and write reports/index.html
#   make test     lint, type check, and every test
#   make matrix   every notebook on every odd dataset of the tests: some twenty minutes
#   make lab      JupyterLab on the tour
#   make lint     lint and type check alone
#   make certificates   100,000 searches that try to certify a wrong list (minutes)
#   make faults   kill, fill up, cut off and damage whatever can be, and write reports/reliability.md
#   make clean    remove .venv, caches and generated reports; data/ and ckpts/ stay
#
# PYTHON=... chooses the interpreter, EXTRA=gpu installs the GPU builds of fbgemm and faiss instead of the CPU ones.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: install report test matrix lab lint certificates faults clean

comma := ,
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# The first of these that runs and is of a version we support: a shim of a version manager may be there and not run.
PYTHON ?= python3.11 python3.12 python3 python
VERSION_CHECK := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

install: $(VENV)/.installed-$(EXTRA)

report: $(VENV)/.installed-$(EXTRA)
	$(BIN)/workbench report

lab: $(VENV)/.installed-$(EXTRA)
	$(BIN)/workbench lab

# A process for each core, of one thread; the tests of a file stay together, for they share what they trained. Files with slow
# tests come first, in the order of tests/conftest.py, so that no core is left alone with one of them at the end.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 30

matrix: $(VENV)/.installed-$(EXTRA)-test
	$(BIN)/python -m pytest -m matrix

lint: $(VENV)/.installed-$(EXTRA)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/workbench pairs

certificates: $(VENV)/.installed-$(EXTRA)
	$(BIN)/workbench bench certificates

faults: $(VENV)/.installed-$(EXTRA)-test
	$(BIN)/python tests/faults/campaign.py --long --report reports/reliability.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find reports -mindepth 1 -maxdepth 1 -not -name README.md -not -name tables -not -name "*.md" -not -name gallery -exec rm -rf {} +

$(BIN)/python:
	@for name in $(PYTHON); do \
	    if "$$name" -c '$(VERSION_CHECK)' >/dev/null 2>&1; then \
	        echo "creating $(VENV) with $$("$$name" --version)"; \
	        exec "$$name" -m venv $(VENV); \
	    fi; \
	done; \
	echo "error: needs Python 3.11 or 3.12, which is none of: $(PYTHON); name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 1

# fbgemm and faiss make things faster; where they cannot be had (another processor, say) the rest works without them.
define install
@echo "installing into $(VENV): some minutes the first time"
@$(INSTALL) -e '.[$(EXTRA)$(1)]' || { echo "note: without fbgemm and faiss, which cannot be installed here"; \
	$(INSTALL) -e '.$(if $(1),[test])'; }
endef

$(VENV)/.installed-$(EXTRA): pyproject.toml constraints.txt | $(BIN)/python
	$(call install)
	@touch $@

$(VENV)/.installed-$(EXTRA)-test: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,$(comma)test)
	@touch $(VENV)/.installed-$(EXTRA) $@
