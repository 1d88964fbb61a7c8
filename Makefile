# A fresh machine needs Python 3.11 or newer and nothing else: every target sets up .venv first, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo bench test test-slow check clean

# torch comes first and alone, so that what the user asked for stays; the pins then hold for all the rest.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fasthmr needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)"
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	$(BIN)/python -m pip list --format=freeze | grep '^torch==' >> .venv/constraints.txt
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/fasthmr data preview --data synth:test --out demo/preview.png
	$(BIN)/fasthmr compress quickstart --model reference --data synth:test --frames 256 --out demo/quickstart
	@echo "Open demo/quickstart/report.html in a browser."

# Minutes on two cores: HMR2.0's 670 million random weights, in two precisions, four ways.
bench: $(INSTALLED)
	$(BIN)/python -m experiments.bench --out bench.json

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build demo *.egg-info
