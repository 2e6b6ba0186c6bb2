# Targets for people and for CI. `make help` lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PHOTO  ?= docs/samples/rocket.jpg
VIDEO  ?= animatic-demo.mp4
PRESET ?= tiny
RUN    ?= build/training/$(PRESET)
EXECUTIONS ?= 100000
PROCESSES ?= 2
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo picture page-pictures up check chromium test chaos fuzz contract audit bench train-tiny constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it; .venv/bin/animatic is the command

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Animatic needs Python 3.11 or 3.12, got {v[0]}.{v[1]}; try: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup ## a photo becomes a video on this machine: make demo [PHOTO=path]
	@$(BIN)/animatic demo "$(PHOTO)"

picture: setup ## the README's picture from the demo's video: make demo picture [VIDEO=path]
	@"$$($(BIN)/python -c 'from shared.video import ffmpeg_executable; print(ffmpeg_executable())')" -v error -y \
	  -i "$(VIDEO)" -vf scale=2*iw:-1:flags=lanczos -c:v libwebp_anim -loop 0 -quality 80 docs/images/demo.webp
	@echo "picture: docs/images/demo.webp"

page-pictures: setup chromium ## the pictures of the page in README and docs, from a running `make up`
	@PYTHONPATH=tests $(BIN)/python tests/browser/pictures.py

up: setup ## keep the whole stack running on this machine
	@$(BIN)/animatic up

check: setup ## format, lint, types, import directions, unit tests: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/unit

chromium: # what the tests of the page run in: one that is there, or Debian's
	@test -n "$$TEST_CHROMIUM" || command -v chromium google-chrome >/dev/null || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 \
	    || { echo "the tests of the page need Chromium: apt-get install chromium, or TEST_CHROMIUM=/path/to/it"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

test: check chromium ## everything, as CI does
	$(BIN)/pytest tests/integration tests/browser tests/chaos -m "not campaign" --durations=30 \
	  --numprocesses $(PROCESSES) --dist loadgroup

chaos: setup ## the whole fault campaign, and a soak: tens of minutes
	$(BIN)/pytest tests/chaos --numprocesses $(PROCESSES) --dist loadgroup
	$(BIN)/python -m bench.soak --result bench/results/soak.json

fuzz: setup ## the image decoder by mutated files, for long: make fuzz [EXECUTIONS=100000]
	FUZZ_EXECUTIONS=$(EXECUTIONS) $(BIN)/pytest -q -s --timeout 0 tests/integration/test_decoder.py -k mutated

contract: setup ## Schemathesis over the OpenAPI document, for long
	CONTRACT_EXAMPLES=200 $(BIN)/pytest -q -s --timeout 0 tests/integration/test_contract.py

bench: setup ## the published numbers, into bench/results
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.service
	$(BIN)/python -m bench.refusals
	$(BIN)/python -m bench.worker_throughput

train-tiny: setup ## train the embedded model from nothing: 22 minutes on one H200; PRESET=two-cores without a GPU
	for stage in vae temporal-decoder unet; do \
	  $(BIN)/python -m training $$stage --preset $(PRESET) --run "$(RUN)" $(if $(IMAGES),--images "$(IMAGES)") || exit; done
	$(BIN)/python -m training export build/checkpoint --run "$(RUN)"
	$(BIN)/python -m training evaluate build/checkpoint --preset $(PRESET) --run "$(RUN)"

audit: setup ## known holes in the pinned dependencies, where the advisories can be reached
	rm -rf build/audit build/audit.json && $(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	@build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
	  --format json --output build/audit.json; \
	test -s build/audit.json || { echo "the advisories cannot be reached: nothing was audited"; exit 0; }; \
	$(BIN)/python -c 'import json, sys; found = [(d["name"], v["id"]) for d in json.load(open("build/audit.json"))["dependencies"] for v in d.get("vulns", [])]; print(found or "no known vulnerability"); sys.exit(bool(found))'

constraints: ## pin what the extras resolve to today
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet torch==2.13.0
	build/constraints/bin/python -m pip install --quiet --editable '.[bench]'
	build/constraints/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove what make and the tests made here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache animatic-demo.mp4
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
