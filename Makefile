# Needs Python >= 3.11 and make; everything else goes into .venv.
#
#   make lab KAFKA=localhost:9092     the demo on your own broker
#   make lab LAB_ARGS="--port 9999"   more arguments for JupyterLab
#   make test ARGS="-k history"       more arguments for pytest
#   make bench ONLY=lookup            one benchmark
#   make PYTHON=python3.12 ...        another Python

PYTHON ?= python3
KAFKA ?=
LAB_ARGS ?=
ARGS ?=
ONLY ?=

VENV := .venv
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip install --quiet --disable-pip-version-check
TESTS := $(RUN) pytest -n 3 --dist loadgroup
DEMO := $(VENV)/bin/eslab demo data/shop $(if $(KAFKA),--kafka $(KAFKA))
# JupyterLab opens on the map, also where its address is followed by hand; README.md opens to be read, not as source
MAP := --ServerApp.root_dir=notebooks --LabApp.default_url=/lab/tree/README.md
READING := JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}"
ROOT_TOO := $(if $(filter 0,$(shell id -u)),--allow-root)

unexport PYTHONDONTWRITEBYTECODE # or each process that a test starts compiles all of eslab: 0.7 s

.DEFAULT_GOAL := help
.PHONY: help lab test torture lint bench notebooks lessons screenshots showcase docs clean

help: ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

lab: $(VENV)/lab ## JupyterLab on the demo: the order shop
	$(DEMO)
	$(READING) $(RUN) jupyter lab $(ROOT_TOO) $(MAP) $(LAB_ARGS)

test: $(VENV)/test ## all tests but the long ones, and those that run notebooks
	$(TESTS) -m "not torture and not notebook" $(ARGS)

torture: $(VENV)/test ## the long tests, and twenty times as many examples of those that draw theirs
	ESLAB_EXAMPLES=20 $(RUN) pytest -m "torture or hypothesis" --timeout 0 $(ARGS)

lint: $(VENV)/test ## ruff, mypy, and the one way that imports go
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/test ## the benchmarks, or ONLY one of them
	$(RUN) benchmarks $(ONLY)

notebooks: $(VENV)/test ## run every notebook from a clean kernel, or those in ARGS; then what is told of them is tested
	$(DEMO)
	$(VENV)/bin/python tests/run_notebooks.py $(ARGS)
	$(if $(ARGS),,$(TESTS) -m "notebook and not torture")

lessons: $(VENV)/test ## each lesson as a page to hand out, and as slides, in build/lessons
	$(DEMO)
	$(VENV)/bin/python tests/make_lessons.py $(ARGS)

screenshots: $(VENV)/test ## the pictures of README and docs, from a real JupyterLab
	$(VENV)/bin/python tests/screenshots.py $(ARGS)

showcase: $(VENV)/test ## docs/showcase.ipynb: a notebook with its outputs, for readers who run nothing
	$(DEMO)
	$(VENV)/bin/python tests/showcase.py

docs: $(VENV)/test ## do the links, commands and names in the docs exist?
	$(RUN) pytest tests/test_docs.py $(ARGS)

clean: ## remove what was made here, but no lab
	rm -rf $(VENV) .cache build dist benchmarks/out .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: each extra is installed once, and again when pyproject.toml changes.

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "eslab needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1); name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/lab: $(VENV)/made pyproject.toml
	$(PIP) --editable '.[demo,lab]'
	@touch $@

$(VENV)/test: $(VENV)/made pyproject.toml
	$(PIP) --editable '.[cluster,demo,lab,test]'
	@touch $@
