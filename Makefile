# drivesim: everything a fresh clone needs. Each target does its own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
WORKERS ?= 2
DEMO := runs/demo
# Small tensors on few cores: more threads per process only wait for each other.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP)  ## create .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 13) else f"drivesim needs Python 3.10, 3.11 or 3.12; this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Scenes from 9000 on are never trained on.
demo: $(STAMP)  ## boxes -> start frames -> 4 futures of 20 s -> scores (under 8 minutes on two cores)
	rm -rf $(DEMO)/design $(DEMO)/rollout  # of an earlier version, whose model may have been another
	$(BIN)/drivesim design scene=cut_in out=$(DEMO)/design
	$(BIN)/drivesim rollout start=cut_in futures=4 seconds=20 pool=ray out=$(DEMO)/rollout
	$(BIN)/drivesim prepare data=toytown data.root=$(DEMO)/town data.val_share=0 data.town.first_scene=9000 \
		data.town.num_scenes=12 data.town.fps=4 export=videos export.split=train out=$(DEMO)/real
	$(BIN)/drivesim evaluate generated=$(DEMO)/rollout real=$(DEMO)/real/videos out=$(DEMO)/scores

test: $(STAMP)  ## run all tests (15 to 40 minutes on two cores)
	$(BIN)/python -m pytest -n $(WORKERS) tests

check: $(STAMP)  ## ruff, mypy and the tests that guard the layout
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layout.py tests/test_imports.py

# DRIVESIM_PEER_I3D=PATH of pytorch_i3d.py (github.com/piergiaj/pytorch-i3d) sets ours beside it.
bench: $(STAMP)  ## measure speeds (DRIVESIM_BENCH_ROWS=FILE keeps them as rows)
	$(BIN)/python -m pytest -q -s tests/benchmarks
