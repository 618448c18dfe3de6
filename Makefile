# make demo   the whole method on the embedded images; results in $(OUT)
# make test   lint, types and tests
# make fuzz   2,000 random command lines and 500 damaged files; SEED=1 for others
# All first make an environment in .venv; PYTHON=python3.12 picks the interpreter that it is made with.

PYTHON ?= python3
OUT    ?= runs/demo
SEED   ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test lint fuzz clean

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

demo: .venv/installed
	.venv/bin/robustok demo --out $(OUT)

test: lint
	.venv/bin/python -m pytest

fuzz: .venv/installed
	.venv/bin/python -m tests.fuzz.fuzz --seed $(SEED)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# --without-pip and pip's --python: some distributions ship Python without ensurepip.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv/bin/python install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
