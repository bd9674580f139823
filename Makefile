# make demo                     a real comparison of draft strategies on the demo models, from nothing but Python, gcc, cmake
# make demo TARGET=model.gguf   the same on a model of yours
# make test                     lint, types, docs and tests, likewise
# make bench                    benchmarks that need no model; see benchmarks/ for the others

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TARGET ?=
WORKLOADS ?= code,code-edit,chat,summarize
LIMIT ?= 2
N_PREDICT ?= 64

# This llama.cpp's AMX kernels crash at the first decode: leave them out where the CPU would take them.
AMX := $(shell grep -q amx_tile /proc/cpuinfo 2>/dev/null && echo -mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
BUILD_FLAGS := CFLAGS="$(CFLAGS) $(AMX)" CXXFLAGS="$(CXXFLAGS) $(AMX)"

.PHONY: demo test check install bench clean

demo: $(VENV)/installed
ifeq ($(TARGET),)
	$(BIN)/specdec compare --strategies mtp,ngram,draft --limit 6 --n-predict 128
else
	$(BIN)/specdec compare --target "$(TARGET)" --strategies ngram --workloads $(WORKLOADS) --limit $(LIMIT) --n-predict $(N_PREDICT)
endif

test: $(VENV)/installed-dev
	$(MAKE) check
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_docs.py

bench: $(VENV)/installed
	$(BIN)/python benchmarks/propose.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/commands.py

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BUILD_FLAGS) $(BIN)/pip install --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BUILD_FLAGS) $(BIN)/pip install --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
