# Two commands matter: `make demo` and `make test`. Both make the environment in .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Touched when the environment is complete: a second run does not install again unless pyproject.toml changed.
READY := $(VENV)/.ready
DEMO := stores/demo
# Real data for benchmarks and slow tests; not part of the repository.
DATA ?= ../shared/data

.PHONY: demo test slow bench

## Build, verify and look at the store of the demo set that ships with the package.
demo: $(READY)
	$(BIN)/labelgen build --dataset demo --out $(DEMO)
	$(BIN)/labelgen verify $(DEMO)
	$(BIN)/labelgen inspect $(DEMO)

## What a change must pass. The tests share the cores by processes: more threads in each would only wait for each other.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

## Tests that take minutes: real data at real size.
slow: $(READY)
	$(BIN)/pytest -m slow

## Builds of real data, then what reading and the build itself cost; each prints a table.
bench: $(READY)
	$(BIN)/python benchmarks/builds.py --data $(DATA) --out stores/bench
	$(BIN)/python benchmarks/reading.py stores/bench/flickr30k stores/bench/flickr8k
	$(BIN)/python benchmarks/overhead.py --data $(DATA)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'labelgen needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[all]"
	@touch $@
