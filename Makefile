# A fresh machine needs Python 3.11 or newer and nothing else: every target sets up .venv first, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo bench full-size video docs test test-slow test-zoo campaign evidence search-postgres gpu-check check clean

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
	$(BIN)/fasthmr compress quickstart --model reference --data synth:test --frames 96 --out demo/quickstart
	@echo "Open demo/quickstart/report.html in a browser."

# Minutes on two cores: HMR2.0's 670 million random weights, in two precisions, four ways.
bench: $(INSTALLED)
	$(BIN)/python -m experiments.bench --out bench.json

# HMR2.0 and CameraHMR at their size, on a video and masks that packages bring: an hour on one core, 9 GB of memory.
full-size: export FASTHMR_HOME := $(CURDIR)/build/full-size/home
full-size: $(INSTALLED)
	rm -rf build/full-size
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev,blazepose]'
	$(BIN)/python -m pip download --no-deps -d build/full-size sports2d==0.8.34
	$(BIN)/python -m zipfile -e build/full-size/sports2d-*.whl build/full-size
	for family in hmr2 camerahmr; do \
		$(BIN)/python -m tests.full_size $$family build/full-size/Sports2D/Demo/demo.mp4 \
			--out build/full-size/$$family || exit 1; \
	done

# The strip and the tables of docs/your-own-videos.md, again: minutes on a core that has nothing else to do.
VIDEO := build/video
video: export FASTHMR_HOME := $(CURDIR)/$(VIDEO)/home
video: $(INSTALLED)
	rm -rf $(VIDEO)
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev,blazepose]'
	$(BIN)/python -m pip download --no-deps -d $(VIDEO) sports2d==0.8.34
	$(BIN)/python -m zipfile -e $(VIDEO)/sports2d-*.whl $(VIDEO)
	$(BIN)/fasthmr run $(VIDEO)/Sports2D/Demo/demo.mp4 --model reference --overlay --out $(VIDEO)/whole
	$(BIN)/fasthmr run $(VIDEO)/Sports2D/Demo/demo.mp4 --model reference --recipe mask-tome --overlay --out $(VIDEO)/merged
	$(BIN)/python -m experiments.reports.running $(VIDEO)/whole $(VIDEO)/merged --out docs/video.png \
		--table experiments/paper/records/video.json
	for people in boxes blazepose; do \
		$(BIN)/python -m experiments.paper.two_people --out $(VIDEO)/two --frames 1800 --moving --people $$people || exit 1; \
		cp $(VIDEO)/two/two-people-$$people.json experiments/paper/records/; \
	done
	$(BIN)/python -m experiments.paper.fill

# The pages as a site, build/site/index.html. A link or an anchor that leads nowhere ends it; nothing is fetched to look.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(INSTALLED)
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build

# Files stay whole on one worker, so that what a file draws or trains once is made once; a worker computes on one thread.
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev,blazepose,ray,rerun]'
	$(BIN)/python -m pytest -m slow --timeout 1800

# timm's networks and the detectors of people need a torchvision, which refuses the CPU torch of the pins: a venv of its
# own, with a pair that matches. ultralytics is under AGPL-3.0: it is tested, and nothing here is built on it.
ZOO := build/zoo
ZOO_TORCH ?= torch==2.14.1 torchvision==0.29.1
ZOO_OTHERS := timm==1.0.31 rfdetr==1.11.2 ultralytics==8.4.190

$(ZOO)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install $(ZOO_TORCH)
	grep -v '^torch==' constraints.txt > $(ZOO)/constraints.txt
	$(ZOO)/bin/python -m pip list --format=freeze | grep '^torch==' >> $(ZOO)/constraints.txt
	$(ZOO)/bin/python -m pip install -c $(ZOO)/constraints.txt -e '.[dev]' $(ZOO_OTHERS)
	touch $@

test-zoo: export OMP_NUM_THREADS := 1
test-zoo: $(ZOO)/.installed
	$(ZOO)/bin/python -m pytest --timeout 1800 tests/zoo_timm.py tests/zoo_detectors.py

# A search by two workers on a PostgreSQL server that is started for it; apt-get installs Debian's where there is none.
search-postgres: $(INSTALLED)
	ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || $$(test $$(id -u) = 0 || echo sudo) apt-get install -y postgresql
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev,postgresql]'
	$(BIN)/python -m experiments.search.postgresql experiments/studies/minutes.yaml

# All records again from nothing, then the tables of the pages and docs/results.html: days on two cores. What is finished is
# in build/evidence and is not done again. `python -m experiments.paper.fill` makes the page of the records there are.
evidence: $(INSTALLED)
	$(BIN)/python -m pip install -c .venv/constraints.txt -e '.[dev,blazepose]'
	$(BIN)/python -m experiments.paper.anew build/evidence

# Every way to harm a command or a file that we know, counted: an hour or two. What is over is in build/campaign.jsonl.
campaign: export OMP_NUM_THREADS := 1
campaign: $(INSTALLED)
	$(BIN)/python -m tests.campaign --record experiments/paper/records/campaign.json
	$(BIN)/python -m experiments.paper.fill

# On a machine with CUDA, in a few minutes: the same bodies as on its CPU, nothing that waits for the device, times.
gpu-check: TORCH := torch
gpu-check: $(INSTALLED)
	$(BIN)/python -m tests.gpu

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build demo *.egg-info
