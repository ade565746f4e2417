# Every target makes .venv from constraints.txt first where it is missing; nothing else is needed but Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo fast test test-slow test-cuda test-guides test-release test-oldest docs check clean

demo: $(VENV)/.installed          ## the main job, on the bundled model and world
	$(BIN)/rankscope demo

# Rooms whose tests load no model, and what holds the rest together.
FAST := $(addprefix tests/,study plan records data decide report test_import_law.py test_docs.py)

fast: check                       ## while working: checks, and the tests that load no model; under a minute
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not guide and not cuda and not release" $(FAST)

test: check                       ## checks and the fast tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not guide and not cuda and not release"

test-slow: $(VENV)/.dev           ## kills, the demo itself, the browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not cuda"

test-cuda: $(VENV)/.dev           ## what needs a CUDA device
	$(BIN)/python -m pytest -q -n 2 -m cuda tests/cuda

test-guides: $(VENV)/.dev         ## every command of the guides in docs/, as printed
	$(BIN)/python -m pytest -q -m guide

test-release: $(VENV)/.dev        ## wheel and sdist, installed without the checkout, with docs/first-study.md as printed
	$(BIN)/python -m pytest -q -m release

# The oldest versions that are claimed, in an environment of their own: a whole study, and rooms that lean on libraries.
OLDEST := $(addprefix tests/,test_pipeline.py records decide/test_verdict.py report/test_page.py study/test_read_study.py)

test-oldest:                      ## a whole study and more with constraints-oldest.txt, in .venv-oldest
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q -c constraints-oldest.txt -e . pytest pytest-timeout pytest-xdist hypothesis PyYAML statsmodels
	.venv-oldest/bin/python -m pytest -q -n 2 --dist loadfile $(OLDEST)

EXTRA_DOCS = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])

docs: .venv-docs/.installed       ## the guides and the API as a site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.installed: constraints.txt pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -c constraints.txt $$($(PYTHON) -c '$(EXTRA_DOCS)')
	touch $@

check: $(VENV)/.dev               ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/mypy

$(VENV)/.installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,harness,tensorboard,mlflow,wandb]"
	touch $@

clean:
	rm -rf $(VENV) .venv-docs .venv-oldest site build dist .mypy_cache .ruff_cache
