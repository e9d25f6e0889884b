# Everything here needs only make and Python 3.11 or later; `make` alone lists the targets.

PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$one && break; done)
VENV   := .venv
PY     := $(VENV)/bin/python
PINNED := $(VENV)/.pinned
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export Q

.PHONY: help setup demo test check format lock bench chaos clean

help:   ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(PINNED) models index   ## virtual environment, pinned packages, models, index

demo: setup   ## three nodes answer questions; Q="…" asks your own
	@$(PY) -m tools.demo $${Q:+"$$Q"}

test: setup check   ## everything that must pass, in under five minutes
	@$(PY) -m pytest -q --durations=5

check: $(PINNED)   ## lint, format and types
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/mypy --no-error-summary

format: $(PINNED)   ## write the format that `make check` wants
	@$(VENV)/bin/ruff check --fix --quiet; $(VENV)/bin/ruff format --quiet

lock: $(PINNED)   ## resolve and pin all packages anew
	@$(PY) -m tools.lock

bench: setup   ## measure everything, beside the peers that are installed
	@$(PY) -m bench --all

.PHONY: bench-peers
bench-peers: $(PINNED)   # the peers, each in an environment of its own
	@$(PY) -m bench.peers

chaos: $(PINNED)   ## break a mesh of real processes in every way it should survive (5 minutes)
	@$(PY) -m tools.chaos

sim: $(PINNED)   ## meshes in virtual time: random faults, a large one for an hour (15 minutes)
	@$(PY) -m tests.sim.campaign --seeds 2000
	@$(PY) -m tests.sim.whole.campaign --seeds 500
	@$(PY) -m tests.sim.scale
	@$(PY) -m tests.sim.scale --nodes 1000 --minutes 1

clean:   ## remove what the targets above made here (not ~/.cache/mesh)
	rm -rf $(VENV) var output .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(PINNED): requirements.lock
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or later is needed; name one with PYTHON=…" >&2; exit 1; }
	@echo "setup 1/3  packages into $(VENV) (minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m tools.packages
	@touch $@

.PHONY: models index
models: $(PINNED)
	@echo "setup 2/3  models, into ~/.cache/mesh"
	@$(PY) -m tools.models fetch --topology config/topology.toml >/dev/null

index: models
	@echo "setup 3/3  index of the standard library's documentation (a minute the first time)"
	@$(PY) -m tools.corpus stdlib
