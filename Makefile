# Everything runs in .venv, which `make` itself sets up from the ordinary package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Real series, where they are at hand (data/README.md says where they come from); tests skip without them.
STFORECAST_DATA ?= $(wildcard $(abspath ../shared/data))
export STFORECAST_DATA
# Threads of torch that wait by spinning cost several times the work itself where other processes want the cores.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

.PHONY: help install demo operate gallery pictures golden notebooks docs test test-slow lint real pretrained ablation bench soak soak-run clean

help:
	@echo "make demo   a whole forecast on generated data, for the weather and for a city (about 4 minutes)"
	@echo "make gallery  every kind of picture in one page, data/runs/gallery.html (real series with STFORECAST_DATA)"
	@echo "make operate  scheduled forecasts of generated data up to now, with late and damaged input (under 2 minutes)"
	@echo "make pictures  the pictures of the README and the documentation, docs/images (needs STFORECAST_DATA; three minutes)"
	@echo "make notebooks  execute the teaching notebooks into data/runs/notebooks (real series with STFORECAST_DATA)"
	@echo "make docs   the documentation as pages, docs/_build/html (half a minute; nothing is fetched)"
	@echo "make golden  the small pictures that tests compare with, anew (tests/golden); look at them before committing"
	@echo "make test   the test suite, but for the slow tests (under 8 minutes)"
	@echo "make test-slow  kills, clusters, browsers, whole seasons, the growth of memory (under 5 minutes)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  speed and memory against named alternatives, as tables; docs/performance.md has them"
	@echo "make real   both real series whole; writes docs/results.md (needs STFORECAST_DATA)"
	@echo "make pretrained  the models that come with the package, with their cards (needs STFORECAST_DATA; half an hour)"
	@echo "make ablation  what each part of the presets is worth; writes docs/ablation.md (needs STFORECAST_DATA)"
	@echo "make soak   kills, failing disks, races and damage, some thousand times; writes docs/reliability.md (half an hour)"
	@echo "make soak-run  a year of scheduled runs against faults of all kinds; writes docs/operations-soak.md (needs STFORECAST_DATA; an hour, goes on where it was stopped)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.notebooks: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks]'
	touch $@

demo: install
	$(BIN)/python pipelines/demo.py

operate: install
	$(BIN)/python pipelines/operate.py

gallery: install
	$(BIN)/python pipelines/gallery.py

pictures: install
	$(BIN)/python pipelines/pictures.py

notebooks: install $(VENV)/.notebooks
	$(BIN)/python pipelines/notebook_runs.py

docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	rm -rf docs/_build
	$(BIN)/python -m sphinx --quiet --fail-on-warning --jobs auto docs docs/_build/html
	@echo "docs/_build/html/index.html"

golden: install
	$(BIN)/python tests/golden_pictures.py

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

test-slow: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m slow

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

ablation: install
	$(BIN)/python pipelines/ablation.py

pretrained: install
	$(BIN)/python pipelines/pretrain.py

real: install
	$(BIN)/python pipelines/real.py

bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmarks]'
	$(BIN)/python benchmarks/windows.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/training_memory.py
	$(BIN)/python benchmarks/capped_forecast.py

SEED ?= 0
soak: install
	$(BIN)/python benchmarks/soak.py --seed $(SEED)

soak-run: install
	$(BIN)/python benchmarks/soak_run.py --seed $(SEED)

clean:
	rm -rf $(VENV) data/demo data/operate data/raw data/stores data/runs docs/_build docs/generated
