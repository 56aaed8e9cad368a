PYTHON ?= python3
BIN := .venv/bin
# Two processes that take one test after the other, in the order of tests/support/selection.py.
WORKERS := -n 2 --maxschedchunk 1

.PHONY: train test test-all test-oldest bench compile-grid lint clean

train: .venv/installed
	$(BIN)/python examples/mnist/train.py $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: .venv/installed
	$(BIN)/python -m pytest $(WORKERS) --all $(ARGS)

# On a GPU, the fused layers beside cuDNN; without one, the reference beside torch.nn, on small layers.
bench: .venv/installed
	@mkdir -p build && rm -f build/bench.json
	$(BIN)/python -m pytest bench -q --benchmark-quiet --save build/bench.json $(ARGS); status=$$?; \
	$(BIN)/python -m bench report build/bench.json --out build/bench && exit $$status

# The kernels under the oldest torch and Triton that are supported, in an environment of their own.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest $(WORKERS) --all -m oldest $(ARGS)

# Every kernel and shipped tile for every architecture and dtype, with the pinned Triton and the oldest: all compile and fit.
compile-grid: .venv/installed .venv-oldest/installed
	$(BIN)/python -m bench lowering --arch all --dtype all --grid $(ARGS)
	.venv-oldest/bin/python -m bench lowering --arch all --dtype all --grid $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: EXTRA := dev
.venv/installed: CONSTRAINTS := constraints.txt
.venv-oldest/installed: EXTRA := test
.venv-oldest/installed: CONSTRAINTS := constraints-oldest.txt

.venv/installed .venv-oldest/installed: pyproject.toml constraints.txt constraints-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tritonconv needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[$(EXTRA)]"
	touch $@

clean:
	rm -rf .venv .venv-oldest build *.egg-info
