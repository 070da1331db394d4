# `make demo` and `make test` work from a bare clone with nothing but Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_DIR ?= demo-output
BENCH_TRAINING_DIR ?= build/bench-training
export LARSTORE_TEST_DATA ?= $(wildcard ../shared/data)

.PHONY: venv demo test test-all lint format docs bench bench-docs bench-training pictures clean
venv: $(STAMP)

# Up to date as long as neither the dependencies nor the pins changed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"larstore needs Python 3.11 or newer; this is {v[0]}.{v[1]}. Fix: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $(STAMP)

demo: venv
	$(BIN)/larstore demo -o $(DEMO_DIR)

test: venv
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# What takes longer: kills, a real Slurm, whole runs, notebooks, a browser, the wheel.
test-all: venv
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, to be opened at build/site/index.html; a warning is an error.
docs: venv
	$(BIN)/mkdocs build --strict

bench: venv
	for bench in store index detector tiling run sparse stream infer; do $(BIN)/python -m tests.benchmarks.bench_$$bench || exit 1; done

# The pages and figures of docs/ that benchmarks write, within an hour; run it on a quiet machine.
bench-docs: venv
	$(BIN)/python -m tests.benchmarks.bench_tiling --docs docs
	$(BIN)/python -m tests.benchmarks.bench_store --docs docs
	$(BIN)/python -m tests.benchmarks.bench_index --docs docs
	$(BIN)/python -m tests.benchmarks.bench_run --docs docs --units 1000000
	$(BIN)/python -m tests.benchmarks.bench_sparse --docs docs
	$(BIN)/python -m tests.benchmarks.bench_stream --docs docs
	$(BIN)/python -m tests.benchmarks.bench_infer --docs docs

# How well the network learns, two hours on two cores; run again, it goes on where it stopped.
bench-training: venv
	$(BIN)/python -m tests.benchmarks.bench_training --work $(BENCH_TRAINING_DIR) --docs docs

# The README's pictures and that of docs/looking.md, from a demo (run first if $(DEMO_DIR) holds none), by a headless Chromium.
pictures: venv
	$(BIN)/python -m tests.benchmarks.pictures --demo $(DEMO_DIR) --docs docs

clean:
	rm -rf $(VENV) build *.egg-info $(DEMO_DIR)
