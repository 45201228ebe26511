# `make train` and `make test` are complete commands on a fresh Linux machine: the first call sets everything up in
# .venv, later calls start at once. Variables: ARGS (passed on), PYTHON, VENV, TORCH (see the README).

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# A TORCH given once is remembered in the environment, so that a later plain `make` does not undo it.
TORCH ?= $(shell cat $(VENV)/torch.txt 2>/dev/null)

BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup system train test test-slow test-gpu lint format
help:
	@echo "make train [ARGS='steps=20000 seed=1']   set up, then train on the Kitchen from pixels"
	@echo "make test  [ARGS='tests/envs']           set up, then run the fast tests"
	@echo "make test-slow | make test-gpu           the tests that take longer | that need a CUDA device"
	@echo "make lint | make format                  ruff and mypy | let ruff rewrite the files"
	@echo "make setup [TORCH='torch==2.13.0'] [PYTHON=python3.12]   the set-up alone"

train: $(STAMP)
	$(BIN)/python -m agent.train task=kitchen obs=pixels $(ARGS)

# a process for each core; a file's tests share what it has trained, so they stay together
test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -n auto -m "slow and not gpu" $(ARGS)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy models agent envs demos

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

# torch comes first and alone: it is by far the largest download and the only one with a build per accelerator.
# Without an NVIDIA driver the small CPU build is tried first, which exists only where the configured index has one.
# The version that was really installed is then the constraint for everything else.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Understudy needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1 || true)"; \
	  echo "Name another one, for example: make setup PYTHON=python3.12"; exit 1; }
	@$(MAKE) --no-print-directory system
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made in $(VENV); on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@sed '/^torch==/d' constraints.txt > $(VENV)/constraints.txt
	@if [ -n "$(TORCH)" ]; then \
	  echo "torch: installing '$(TORCH)' as asked"; \
	  $(PIP) install -c $(VENV)/constraints.txt $(TORCH) && echo "$(TORCH)" > $(VENV)/torch.txt; \
	else \
	  pin=$$(grep '^torch==' constraints.txt); \
	  if ! command -v nvidia-smi >/dev/null && \
	    $(PIP) install -q -c $(VENV)/constraints.txt "$$pin+cpu" 2>/dev/null; then \
	    echo "torch: no NVIDIA driver found, installed the CPU build $$pin+cpu"; \
	  else \
	    echo "torch: installing $$pin (a large download; TORCH=... chooses another build)"; \
	    $(PIP) install -c $(VENV)/constraints.txt "$$pin"; \
	  fi; \
	fi
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
	  >> $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt -e '.[dev,dmc]'
	@$(BIN)/python -c 'import gymnasium, mujoco, torch; \
	  print(f"ready: torch {torch.__version__}, mujoco {mujoco.__version__}, CUDA {torch.cuda.is_available()}")'
	@touch $@

# Headless rendering needs EGL (or OSMesa) from the system, and a Debian Python needs python3-venv.
system:
	@PATH="$$PATH:/sbin:/usr/sbin"; need=""; has() { ldconfig -p 2>/dev/null | grep -F "$$1" >/dev/null; }; \
	has libEGL.so.1 || need="$$need libegl1"; \
	has libGL.so.1 || need="$$need libgl1"; \
	has libOSMesa.so || need="$$need libosmesa6"; \
	test -x $(BIN)/pip || $(PYTHON) -c 'import ensurepip' 2>/dev/null || need="$$need python3-venv"; \
	if [ -z "$$need" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing system packages:$$need"; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq || true; \
	  for package in $$need; do \
	    apt-get install -y -qq --no-install-recommends $$package >/dev/null || echo "could not install $$package"; \
	  done; \
	elif ! has libEGL.so.1 && ! has libOSMesa.so; then \
	  echo "hint: headless rendering needs system packages; on Debian and Ubuntu: sudo apt-get install$$need"; \
	fi
