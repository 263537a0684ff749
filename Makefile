# One command each is the whole set-up: every target makes the virtual environment it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo weights test runtimes parity meaning docs notebooks lint bench clean

demo: $(VENV)/.installed            ## twelve prompts in, demo.png out
	$(BIN)/kerasdiff demo -o demo.png

test: $(VENV)/.installed-test       ## everything that needs no PyTorch
	$(BIN)/python -m pytest tests/test_*.py -n 2 --dist loadfile

runtimes: $(VENV)/.installed-test   ## backends, exports, devices and processes beside each other
	$(BIN)/python -m pytest tests/runtimes -n 2 --dist loadfile --no-loadscope-reorder

parity: $(VENV)/.installed-parity   ## live against diffusers and transformers, and full sizes
	$(BIN)/python -m pytest tests/parity -n 2 --dist loadfile --no-loadscope-reorder

meaning: $(VENV)/.installed-notebooks $(VENV)/.installed-test    ## the demo model's exam, and what it can be taught
	$(BIN)/python -m pytest tests/meaning

docs: $(VENV)/.installed-test       ## what the documentation shows
	$(BIN)/python -m pytest tests/documentation -n 2

notebooks: $(VENV)/.installed-notebooks $(VENV)/.installed-test   ## run, training for a few steps
	$(BIN)/python -m pytest tests/notebooks -n 2

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

weights: $(VENV)/.installed         ## the demo model again, from nothing: a day on two cores; can be cut
	$(BIN)/python -m kerasdiff.demo.recipe build/weights

bench: $(VENV)/.installed-parity
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build demo.png

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	touch $@

# PyTorch first and pinned, so that the small CPU build is taken where one lies at hand.
$(VENV)/.installed-parity: setup.cfg | $(VENV)/.installed-test
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -e ".[parity]"
	touch $@

$(VENV)/.installed-%: setup.cfg | $(VENV)/.installed
	$(BIN)/python -m pip install -q -e ".[$*]"
	touch $@
