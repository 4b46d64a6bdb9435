# Everything from a fresh clone: needs Python 3.10 or newer (with pip) and make.
#   make demo    set up, then classify the held-out digits in ragged requests, and compare backends on them
#   make test    set up, then run the tests
#   make check   set up, then format, lint, types, pages and tests: what CI runs
#   make page    set up, then look at the pages of comparisons in a headless Chromium; as root, it is installed where there is none
#   make bench   set up, then the benchmarks, peers beside us
#   make fuzz    set up, then feed each simulator ten thousand damaged and hostile model files
#   make format  rewrite the sources as `make check` wants them
#   make clean   remove the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
METADATA := pyproject.toml $(PLUGINS)
# Each distribution is installed in place, the core first.
EDITABLE := $(foreach plugin,$(PLUGINS),-e ./$(dir $(plugin)))

.PHONY: demo test check page bench fuzz format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/python examples/01_digits/demo.py
	$(BIN)/python examples/05_compare/compare.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory page
	$(BIN)/python -m pytest

page: $(VENV)/.dev
	sh tools/install_chromium.sh
	$(BIN)/python examples/05_compare/compare.py $(VENV)/compare.html
	$(BIN)/python tools/check_page.py
	$(BIN)/python tools/check_page.py $(VENV)/compare.html

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/gears.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/prior.py
	$(BIN)/python benchmarks/upkeep.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/policies.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/simulator.py
	$(BIN)/python benchmarks/ascend.py
	$(BIN)/python benchmarks/ipu.py
	$(BIN)/python benchmarks/safety.py
	$(BIN)/python benchmarks/false_alarms.py
	$(BIN)/python benchmarks/compare_false_alarms.py
	$(BIN)/python benchmarks/compare.py

fuzz: $(VENV)/.dev
	$(BIN)/python plugins/ascend-sim/fuzz_om.py
	$(BIN)/python plugins/ipu-sim/fuzz_popef.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

# A stamp per set of requirements; changed metadata makes it old, and pip brings the environment up to date.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "anybatch needs Python 3.10 or newer; say which with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python $(METADATA)
	$(BIN)/python -m pip install --quiet -e . $(EDITABLE)
	@touch $@

$(VENV)/.dev: $(VENV)/.python $(METADATA)
	$(BIN)/python -m pip install --quiet -e ".[dev]" $(EDITABLE)
	@touch $@ $(VENV)/.core

$(VENV)/.bench: $(VENV)/.python $(METADATA)
	$(BIN)/python -m pip install --quiet -e ".[bench]" $(EDITABLE)
	@touch $@ $(VENV)/.core
