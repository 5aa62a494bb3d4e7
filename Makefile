# make up      build what is missing and start the service     make up SITE=path/to/site.yaml
# make down    end the hub; servers go on                       make down SERVERS=1 ends them too
# make test    every test that this machine can run
# make test-cluster  the tests on Kubernetes, on a cluster of one node that it starts, or KUBECONFIG's
# make images  build the images that changed; those built on demand: make images IMAGES="octave r"
# make help    the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv, as pip does, trusts what the machine trusts.
export UV_SYSTEM_CERTS ?= true
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
SITE_OPTION := $(if $(SITE),--site "$(SITE)")

.PHONY: up down logs check test test-cluster lint bench lock schema images help
.DEFAULT_GOAL := help

up: $(READY)
	@$(BIN)/studovna up $(SITE_OPTION)

down: $(READY)
	@$(BIN)/studovna down $(if $(SERVERS),--servers)

logs: $(READY)
	@$(BIN)/studovna logs

check: $(READY)
	@$(BIN)/studovna check $(SITE_OPTION)

images: $(READY)
	@$(BIN)/studovna images build $(IMAGES) $(foreach arg,$(ARGS),--arg '$(arg)')

test: $(DEV_READY)
	@$(BIN)/python -m tests.run

test-cluster: $(DEV_READY)
	@$(BIN)/python -m tests.run tests/cluster

lint: $(DEV_READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy studovna spawner binder

bench: $(DEV_READY)
	@$(BIN)/python -m tests.bench

# One command upgrades every locked version.
lock: $(DEV_READY)
	@$(BIN)/python -m studovna.lock

# The JSON Schemas and the reference pages, from the models.
schema: $(READY)
	@$(BIN)/studovna schema

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

# A machine's python3 without venv gets Debian's package when this is root, or a line that says so.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Studovna needs Python 3.11 or newer; this is $$($(PYTHON) --version)."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q python3-venv; } \
		|| { echo "Please have the administrator run once: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(READY): $(BIN)/python requirements/uv.txt requirements/hub.txt pyproject.toml
	@echo "Installing Python packages into $(VENV) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --compile-bytecode --require-hashes --no-deps -r requirements/hub.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(READY) requirements/dev.txt
	@echo "Installing what the tests need into $(VENV) …"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --require-hashes --no-deps -r requirements/dev.txt
	@touch $@
