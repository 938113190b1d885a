# `make demo` and `make test` need nothing but Python 3.10 to 3.13 and the network: both build .venv first.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
DEMO_CFG := configs/Demo/TimeSformer_divST_8x2_48.yaml
DEMO_BEST := output/demo/checkpoints/best.pyth

.PHONY: venv demo app test lint clean

venv: .venv/installed

.venv/installed: requirements.txt setup.py
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), "Python 3.10 to 3.13 is needed, this is " + sys.version'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	touch $@

demo: venv
	$(BIN)/python datasets/demo/make.py data/demo
	$(BIN)/python tools/run_net.py --cfg $(DEMO_CFG)

# The web page with the demo's model, which is trained first if there is none.
app: venv $(DEMO_BEST)
	$(BIN)/python tools/app.py --checkpoint $(DEMO_BEST) --examples data/demo/test

$(DEMO_BEST):
	$(MAKE) demo

# Files of tests are shared out among processes of one thread each.
test: venv lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv data/demo output/demo
