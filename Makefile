# `make help` lists what there is. Override what you need to:
#   PYTHON    the Python to build on, 3.10 to 3.13; where a ROS 2 is sourced, that one's
#   PIP_ARGS  further arguments for pip install, such as an index that has CPU builds of PyTorch
#   WORKERS   processes that `make test` runs the tests without ROS 2 in
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

newest := $(if $(AMENT_PREFIX_PATH),(3, 99),(3, 13))
supported := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= $(newest))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$name -c '$(supported)' 2>/dev/null && echo $$name && break; done)
PIP_ARGS ?=
WORKERS ?= 2
VENV := .venv
# ROS 2 wherever it comes from: the environment's own prefix and messages.
ROS := source $(VENV)/ros.sh &&

# Plugins are named: those that a sourced ROS 2 brings are for other tests.
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(VENV)/bin/python -m pytest
# A thread each, as all cores have a worker; a file's fixtures are made once.
PARALLEL := -p xdist.plugin -n $(WORKERS) --dist loadfile
# Strict: a link that leads nowhere is an error.
DOCS := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2

# Set by the ROS 2 wheels of another environment, whose libraries it would bring with it.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help env demo robot test test-core test-ros test-slow test-avx2 lint docs format bench message-bench \
	gpu clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

env: ## Make .venv with all that is needed, and build the messages; quick when nothing changed
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python from 3.10 to 3.13 was found; name one, as in make PYTHON=/usr/bin/python3.12" >&2; \
		exit 2; fi
	@$(PYTHON) tools/environment.py --venv $(VENV) --pip-args='$(PIP_ARGS)'

demo: env ## Play a sample bag through the real node; tables and pictures in out/demo
	@$(ROS) $(VENV)/bin/siglip-perception demo

robot: env ## A simulated arm that does what it is told, in English and Korean; EPISODES=12 RESUME=1
	@$(ROS) $(VENV)/bin/siglip-perception robot $(if $(EPISODES),--episodes $(EPISODES)) \
		$(if $(RESUME),--resume) $(ROBOT_ARGS)

ifdef PYTEST_ARGS
test: lint
	@$(ROS) $(PYTEST) --slow $(PYTEST_ARGS)
else
test: lint test-core test-ros test-slow ## All tests (lint first); with PYTEST_ARGS="FILE -k NAME" those alone
endif

test-core: env ## The tests that need no ROS 2, without the slow ones
	@$(ROS) OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not ros and not slow"

test-ros: env ## The tests over ROS 2, without the slow ones
	@$(ROS) $(PYTEST) -m "ros and not slow"

test-slow: env ## The slow tests, with ROS 2 and without
	@$(ROS) $(PYTEST) $(PARALLEL) -m slow

test-avx2: env ## The numeric tests once more, as on a CPU that has AVX2 alone
	@$(ROS) OMP_NUM_THREADS=1 $(AVX2) $(PYTEST) $(PARALLEL) --slow -m numeric

lint: env ## ruff, mypy (strict), that rooms import downwards, and that the site builds
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(ROS) $(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(DOCS)

docs: env ## The documents as a site, in out/site
	@$(DOCS)
	@echo "out/site/index.html"

format: env ## Format and mend what ruff can
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

bench: env ## Beside transformers, timm and open_clip; and the node's own overhead
	@$(ROS) $(VENV)/bin/siglip-perception bench $(BENCH_ARGS)
	@$(ROS) for program in $(filter-out bench/message_to_message.py,$(wildcard bench/*.py)); do \
		$(VENV)/bin/python "$$program"; done

message-bench: env ## From a camera's message to the answer's, over real processes; MESSAGE_ARGS=--help
	@$(ROS) $(VENV)/bin/python bench/message_to_message.py --json out/message_to_message.json \
		--markdown out/message_to_message.md $(MESSAGE_ARGS)

# No `env` before it: a machine with a GPU has a PyTorch with CUDA of its own, and may have no network.
gpu: ## Prove the CUDA path on this machine's GPU and time it; REHEARSE=1: on the CPU, small
	@$(or $(wildcard $(VENV)/bin/python),$(PYTHON)) -m siglip_perception.commands.bench.gpu \
		$(if $(REHEARSE),--rehearse) $(GPU_ARGS)

clean: ## Remove the environment and all that was built or written
	rm -rf $(VENV) build install log out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -exec rm -rf {} +
