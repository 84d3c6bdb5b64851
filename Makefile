# The commands of the README. Each sets up what it needs in $(VENV); nothing has to be installed by hand but Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DEMO ?= demo
PROBLEMS ?= 400

# a spinning thread on a shared core can cost more than it computes
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-slow test-vllm style quality bench bench-engines clean

## demo: the main job on the bundled miniature: questions in, load_dataset(...) out, a reflector trained on it
demo: $(VENV)/.demo
	$(BIN)/reflectevo-data generate --source miniature --model miniature --limit $(PROBLEMS) --n-reflections 4 --temperature 1.0 --output $(DEMO)/run
	$(BIN)/reflectevo-data judge $(DEMO)/run --judge self
	$(BIN)/reflectevo-data build $(DEMO)/run --output $(DEMO)/ReflectEvo-460K
	$(BIN)/reflectevo-data show $(DEMO)/ReflectEvo-460K --config dpref
	$(BIN)/reflectevo-train demo --dataset $(DEMO)/ReflectEvo-460K --output $(DEMO)/training

## test: all tests but those that need minutes, a GPU or vLLM
test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not vllm and not gpu"

## test-slow: real launches, kills and hostile programs in every isolation
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not vllm and not gpu"

## test-vllm: the engines' contract on a real vLLM, in process and as a server that is killed (its own environment)
test-vllm:
	tests/vllm.sh python -m pytest tests/data/completers/test_vllm_engine.py

## style: rewrites what can be put right mechanically
style: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## quality: the linter, the formatter, the type checker and the layers
quality: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

## bench: what is measured; each prints one table (see tests/benchmarks)
bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.build
	$(BIN)/python -m tests.benchmarks.code_checks
	$(BIN)/python -m tests.benchmarks.math_pairs

## bench-engines: what each engine gives, against its own limit, on the real vLLM
bench-engines:
	tests/vllm.sh python -m tests.benchmarks.engines

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train]'
	touch $@

$(VENV)/.dev: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,openai,datatrove,qlora,deepspeed,dev]'
	touch $@

clean:
	rm -rf $(DEMO) build *.egg-info .pytest_cache .ruff_cache .hypothesis
