# Each of these works in a fresh clone: the first one to run makes the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: test test-slow demo lint

PYTEST := -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Python may keep what it compiles: many tests start processes of their own.
test test-slow: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	$(BIN)/python $(PYTEST) -m "not slow"

test-slow: $(READY)
	$(BIN)/python $(PYTEST) -m slow

demo: $(READY)
	$(BIN)/python examples/demo.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# torch and torchaudio have to come from one build: PyPI's pair fits, a CPU-only torch beside PyPI's torchaudio does not.
$(READY): pyproject.toml
	@echo "Making $(VENV): some minutes, some gigabytes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
