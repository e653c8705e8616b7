# One command sets up, one plays the demo, one tests, one checks and its twin repairs. Needs git, make and Python 3.11.
#
#   make setup    the two environments: .venv (the server) and .venv-fastvideo (FastVideo and the official code)
#   make demo     one port from start to verdict, on the CPU
#   make test     make check, then the tests
#   make check    lint, format, types, the recorded schemas of the tools, the generated parts of the README
#   make fix      repairs what `make check` can repair
#   make chaos    kills, full disks, clock jumps, damaged files and rows: what every run ended in, as a table (minutes)
#   make faults   every planted mistake and correct rewrite of the real components, as a table (about an hour), and the
#                 tests that `make test` leaves out for their length
#   make clean    removes the environments and everything the demo made
#
# Another interpreter: make PYTHON=/path/to/python3.11 setup

PYTHON ?= python3.11
WORKERS ?= 2
# FastVideo's environment is installed without bytecode; the first import writes what is needed of it. Where that is
# forbidden every process compiles torch and diffusers anew, 9 s each.
unexport PYTHONDONTWRITEBYTECODE
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup environments demo test check fix chaos faults clean

# Paths stay relative, so that a clone in a folder with spaces works.
PY := .venv/bin/python
FASTVIDEO_PY := .venv-fastvideo/bin/python
WHEEL := .demo/wheels/fastvideo-0.2.1-py3-none-any.whl
STANDINS := server/demo/standins/install.py server/demo/standins/fastvideo_port_cpu_standins.py
PIP := -m pip install -qq --retries 5 --disable-pip-version-check --no-input

# Side by side: unpacking torch twice is most of the time.
setup:
	@$(MAKE) --no-print-directory -j2 environments

environments: .venv/.installed .venv-fastvideo/.installed $(WHEEL)
	@:

# A changed list of pins makes the environment anew; a changed pyproject.toml only installs the project again.
.venv/.made: constraints/dev.txt
	@echo "setup: .venv (the server), from constraints/dev.txt (both environments: some minutes, about 3 GB)"
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no $(PYTHON) here. Do: install Python 3.11, or name it: make PYTHON=/path/to/python3.11 setup" >&2; exit 1; }
	@rm -rf .venv && "$(PYTHON)" -m venv .venv
	@$(PY) $(PIP) -r constraints/dev.txt
	@touch $@

.venv/.installed: .venv/.made pyproject.toml
	@$(PY) $(PIP) --no-build-isolation --no-deps -e .
	@$(PY) -m pip check >/dev/null || { $(PY) -m pip check; exit 1; }
	@touch $@

.venv-fastvideo/.made: constraints/fastvideo.txt
	@echo "setup: .venv-fastvideo (FastVideo and the official code), from constraints/fastvideo.txt"
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no $(PYTHON) here. Do: install Python 3.11, or name it: make PYTHON=/path/to/python3.11 setup" >&2; exit 1; }
	@rm -rf .venv-fastvideo && "$(PYTHON)" -m venv .venv-fastvideo
	@$(FASTVIDEO_PY) $(PIP) --no-compile -r constraints/fastvideo.txt
	@touch $@

.venv-fastvideo/.installed: .venv-fastvideo/.made $(STANDINS)
	@$(FASTVIDEO_PY) server/demo/standins/install.py
	@touch $@

$(WHEEL): constraints/fastvideo-wheel.txt | .venv/.made
	@echo "setup: the FastVideo wheel, from constraints/fastvideo-wheel.txt"
	@$(PY) -m pip download -qq --retries 5 --disable-pip-version-check --no-input --no-deps --require-hashes \
	  -r constraints/fastvideo-wheel.txt -d .demo/wheels
	@touch $@

demo: setup
	@$(PY) -m fastvideo_port.server demo $(ARGS)

test: setup check
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: .venv/.installed
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@mkdir -p build/typed && ln -sfn ../.. build/typed/fastvideo_port
	@$(PY) -m mypy | sed 's#^build/typed/fastvideo_port/##'
	@$(PY) -m pytest -q --no-header tests/server/test_schemas.py tests/test_readme.py::test_generated_parts_are_current

chaos: .venv/.installed
	@$(PY) tests/chaos/run.py $(ARGS)

faults: setup
	@[ -d .demo/fastvideo-0.2.1 ] || $(PY) -m zipfile -e $(WHEEL) .demo/fastvideo-0.2.1
	@$(PY) tests/faults/run.py .demo/fastvideo-0.2.1 --python "$(CURDIR)/$(FASTVIDEO_PY)" --workers $(WORKERS) $(ARGS)
	@$(PY) -m pytest -n $(WORKERS) -m thorough

fix: .venv/.installed
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(PY) tests/server/update_snapshots.py
	@$(PY) tests/update_readme.py

clean:
	@rm -rf .venv .venv-fastvideo .demo .mypy_cache .ruff_cache .pytest_cache build
