# `make repro` and `make test` are all that a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
WORKERS ?= 2
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test lab export format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 16

repro: .venv/.installed data/digits.parquet ## install, pull the data, reproduce the pipeline, show the results
	@dvc repro
	@mlops-nb results

test: .venv/.installed data/digits.parquet ## every check that CI runs
	@failed=0; \
	python -m pytest -m "not alone" --numprocesses $(WORKERS) || failed=$$?; \
	python -m pytest -m alone || failed=$$?; \
	exit $$failed

lab: .venv/.installed data/digits.parquet ## open JupyterLab on the project
	@mlops-nb kernel start --no-wait || true
	@jupyter lab --LabApp.news_url=None --LabApp.extension_manager=readonly \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB)

export: .venv/.installed ## modules, README and dvc.yaml from the notebooks
	@mlops-nb export && nbdev-clean && python tests/readme.py && mlops-nb sync

format: .venv/.installed ## format notebooks and tests, and mend what ruff can mend
	@ruff check --fix . && ruff format .

clean: ## remove the environment and local state; artifacts and data stay
	rm -rf .venv .mlops_nb .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

.venv/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed, and $(PYTHON) is older; try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools wheel
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	python -m compileall -q mlops_nb pytest_mlops_nb.py  # which pip leaves undone for an editable package
	mlops-nb kernel install
	@python -c 'import matplotlib.font_manager'  # builds its cache now, not in the output of a stage
	@touch $@

data/digits.parquet: data.dvc | .venv/.installed
	dvc pull --quiet --remote seed data.dvc
	@test -s $@ || { echo "make: data.dvc names no $@; bring it back with git checkout data.dvc" >&2; exit 2; }
	@touch $@
