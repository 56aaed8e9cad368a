PYTHON ?= python3
BIN := .venv/bin
# Two processes. Each takes the next test of the list, whose order tests/support/selection.py decides.
WORKERS := -n 2 --maxschedchunk 1

.PHONY: train test test-all test-oldest bench compile-grid lint clean

train: .venv/installed
	$(BIN)/python examples/mnist/train.py $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: .venv/installed
	$(BIN)/python -m pytest $(WORKERS) --all $(ARGS)

# On a GPU, compare the fused layers with cuDNN. Without one, compare the reference with torch.nn, on small layers. These
# are the smoke layers; ARGS="--rows all" takes all.
bench: .venv/installed
	@mkdir -p build && rm -f build/bench.json
	$(BIN)/python -m pytest bench -q -o console_output_style=classic --save build/bench.json $(ARGS); status=$$?; \
	$(BIN)/python -m bench report build/bench.json --out build/bench > /dev/null && \
	echo "The report with every time, and pictures: build/bench/report.md" && exit $$status

# Test the kernels with the oldest supported torch and Triton, in a virtual environment of their own (.venv-oldest).
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest $(WORKERS) --all -m oldest $(ARGS)

# Compile every kernel with every shipped tile for every architecture and dtype, with the pinned Triton and the oldest
# supported one, and check that each compiles and fits.
compile-grid: .venv/installed .venv-oldest/installed
	$(BIN)/python -m bench lowering --all --arch all --dtype all --grid $(ARGS)
	.venv-oldest/bin/python -m bench lowering --all --arch all --dtype all --grid $(ARGS)

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
