# make demo   the whole method on the embedded images; results in $(OUT)
# make test   lint, types and tests
# Both first make an environment in .venv; PYTHON=python3.12 picks the interpreter that it is made with.

PYTHON ?= python3
OUT    ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

demo: .venv/installed
	.venv/bin/robustok demo --out $(OUT)

test: lint
	.venv/bin/python -m pytest

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
