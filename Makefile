# make demo   train and sample every domain on this machine, write a report
# make test   everything a change must pass: lint, types, import rules, tests, the README's examples
#
# Both start from a fresh clone with nothing but Python 3.11 or later and make.

VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && command -v $$p && break; done)
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# One thread a process: the tests run in $(JOBS) processes, and small problems are fastest on one thread anyway.
test test-slow: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint types imports docs

help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "gendiff needs Python 3.11 or later (with venv); none was found. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev,docs]'
	@touch $@

demo: install
	$(BIN)/python -m gendiff demo $(ARGS)

test: install lint types imports docs
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-slow: install
	$(BIN)/python -m pytest --slow -m slow $(ARGS)

lint: install
	$(BIN)/python -m ruff check .

types: install
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

imports: install
	$(BIN)/lint-imports --no-cache

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml
