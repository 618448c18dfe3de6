# make demo   the whole method on the embedded images; results in $(OUT)
# make test   lint, types and tests
# make docs   the pages, into build/docs, with notebooks run anew; a warning or a broken link is an error
# make fuzz   2,000 random command lines and 500 damaged files; SEED=1 for others
# make release-check   sdist and wheel, checked, installed and run where there is no checkout; needs the network
# All first make an environment in .venv: demo with what robustok needs, the others with linters, peers and extras too.
# PYTHON=python3.12 picks the interpreter that it is made with.

PYTHON ?= python3
OUT    ?= runs/demo
SEED   ?= 0

.DEFAULT_GOAL := help
# What `release-check` leaves: an environment with the wheel, and the folder in which it was run.
RELEASE := build/release
WHEEL_LIMIT := 40000000

.PHONY: help demo test lint fuzz docs release-check clean

help:
	@sed -n '/^$$/q; s/^# //p' $(firstword $(MAKEFILE_LIST))

demo: .venv/core
	.venv/bin/robustok demo --out $(OUT)

test: lint
	.venv/bin/python -m pytest

fuzz: .venv/installed
	.venv/bin/python -m tests.fuzz.fuzz --seed $(SEED)

docs: .venv/installed
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m sphinx -W --keep-going -b html docs build/docs
	.venv/bin/python docs/check_links.py build/docs

release-check: .venv/installed
	rm -rf dist build
	.venv/bin/python -m build
	.venv/bin/python -m twine check --strict dist/*
	@ls -l dist
	@test -z "$$(find dist -name '*.whl' -size +$(WHEEL_LIMIT)c)" || { echo "the wheel is over $(WHEEL_LIMIT) bytes"; exit 1; }
	mkdir -p $(RELEASE)/empty
	$(PYTHON) -m venv --without-pip $(RELEASE)/venv
	$(PYTHON) -m pip --python $(RELEASE)/venv/bin/python install -c constraints.txt dist/*.whl
	cd $(RELEASE)/empty && env -u PYTHONPATH ../venv/bin/robustok demo --preset smoke --quiet
	test -s $(RELEASE)/empty/runs/demo/report.html

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# --without-pip and pip's --python: some distributions ship Python without ensurepip.
.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv/bin/python install -c constraints.txt -e .
	@touch $@

.venv/installed: .venv/core
	$(PYTHON) -m pip --python .venv/bin/python install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
