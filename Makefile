# `make demo` and `make test` need nothing but Python 3.10 to 3.13 and the network: both build .venv first.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
DEMO_CFG := configs/Demo/TimeSformer_divST_8x2_48.yaml
DEMO_BEST := output/demo/checkpoints/best.pyth

.PHONY: venv demo app test test-fast test-isa lint clean

venv: .venv/installed

.venv/installed: requirements.txt setup.py
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), "Python 3.10 to 3.13 is needed, this is " + sys.version'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	touch $@

# One thread: the model is so small that threads wait for each other longer than they compute.
demo: export OMP_NUM_THREADS := 1
demo: venv
	$(BIN)/python datasets/demo/make.py data/demo
	$(BIN)/python tools/run_net.py --cfg $(DEMO_CFG)

# The web page with the demo's model, which is trained first if there is none.
app: venv $(DEMO_BEST)
	$(BIN)/python tools/app.py --checkpoint $(DEMO_BEST) --examples data/demo/test

$(DEMO_BEST):
	$(MAKE) demo

# Each process takes one test file at a time and computes with one thread.
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test: export OMP_NUM_THREADS := 1
test: venv lint
	$(PYTEST)

test-fast: export OMP_NUM_THREADS := 1
test-fast: venv
	$(PYTEST) -m "not slow"

# The numerical tests again as on older processors: PyTorch, oneDNN and MKL limited to AVX2, and to SSE.
# Tests of exported files are not among them: ONNX Runtime ignores these limits, and OpenVINO fails with a limit to SSE.
test-isa: export OMP_NUM_THREADS := 1
test-isa: venv
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(PYTEST) -m numerical
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 $(PYTEST) -m numerical

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv data/demo output/demo
