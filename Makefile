# `make help` lists the targets.

PYTHON ?= python3
ARGS ?=
SHELL := /bin/sh
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet
CODE := app schema resolvers simulator migrations tests benchmarks

# If its Python is gone, the virtual environment is made again.
ifneq ($(shell .venv/bin/python -c 'print(1)' 2>/dev/null),1)
.PHONY: .venv/made
endif

.PHONY: help run test lint pins
.DELETE_ON_ERROR:

.DEFAULT_GOAL := help

help: ## list the targets; start nothing
	@echo "GreenLang. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Pass arguments in ARGS: make run ARGS=\"--port 8500 --data-dir DIR --config FILE --workers 2\", make test ARGS=\"-k breaker\""

run: .venv/installed ## install what is needed and start the server
	@exec .venv/bin/python -m app.cli serve --stop-with-parent $(ARGS)

test: .venv/installed-test ## install what the tests need and run them
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/installed-test ## run all checks that are not tests
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports
	@.venv/bin/python -m pytest -q -p no:xdist tests/test_house_rules.py

pins: ## write requirements/ from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  pyproject.toml --group build --output-file requirements/run.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  pyproject.toml --group build --group test --extra chroma --extra pinecone --extra vault --constraint requirements/run.txt --output-file requirements/test.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  pyproject.toml --group build --extra vault --extra otel --constraint requirements/test.txt --output-file requirements/image.txt

.venv/made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old: GreenLang needs Python 3.11 or newer. Name another one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "This Python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv (or python$$version-venv)" >&2; \
	  exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@touch $@

.venv/installed: .venv/made requirements/run.txt pyproject.toml
	@echo "Installing the packages of requirements/run.txt"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-test: .venv/installed requirements/test.txt
	@echo "Installing the packages of requirements/test.txt"
	@$(PIP) --require-hashes -r requirements/test.txt
	@touch $@
