PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-all test-oldest lint clean

train: .venv/installed
	$(BIN)/python examples/mnist.py $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-all: .venv/installed
	$(BIN)/python -m pytest -n 2 $(ARGS)

# The kernels under the oldest Triton that is supported, in an environment of its own.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2 -m "not slow" tests/test_kernels.py tests/test_lowering.py $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-oldest build *.egg-info
