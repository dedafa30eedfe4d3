# Set-up and everything else: `make demo`, `make test`, `make docs`, `make bench`. Needs Python 3.10 or later.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
QUIET := -W ignore::FutureWarning
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test test-all test-portable test-oldest test-cuda cuda-wheels docs docs-serve bench install export run clean help

help: ; @sed -n 's/^## //p' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -e '.[dev]'
	touch $@

## make install  set up .venv (again only if pyproject.toml changed)
install: $(VENV)/.installed

## make demo     the recipe on real digits, about two minutes; ARGS='--arch resnet18' for options
demo: install
	$(PY) $(QUIET) -m fastai_lrx.demo $(ARGS)

## make run NB=nbs/find/finder.ipynb   execute a notebook and store its outputs
run: install
	nbdev-test $(NB) --save --n-workers 0
	nbdev-clean
	$(PY) tools/clean_outputs.py

## make export   package, tests and README from the notebooks
export: install
	nbdev-clean && nbdev-export
	$(PY) tools/clean_outputs.py
	$(PY) tools/export_tests.py
	$(PY) tools/build_readme.py

## make test     every promise once, some minutes
PYTEST := -m pytest -q -n 2 --dist worksteal tests
test: install
	$(PY) tools/check_sync.py
	$(PY) $(PYTEST)

## make test-all   all tests, the documentation site and the wheel; CI runs both
test-all: install
	$(PY) $(PYTEST) --all
	$(MAKE) docs
	$(PY) tools/check_site.py
	$(PY) tools/check_wheel.py

## make test-portable   all tests as on other processors, and with two threads; not part of CI
test-portable: install
	ONEDNN_MAX_CPU_ISA=AVX2 $(PY) $(PYTEST) --all
	ATEN_CPU_CAPABILITY=default $(PY) $(PYTEST) --all
	LRX_TEST_THREADS=2 $(PY) $(PYTEST) --all

## make test-oldest   the tests once more, with the oldest versions that pyproject.toml allows, in .venv-oldest; not part of CI
OLDEST := .venv-oldest
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q -c tools/oldest.txt fastai torch timm matplotlib accelerate pytest pytest-xdist hypothesis
	PYTHONPATH=$(CURDIR) $(OLDEST)/bin/python $(PYTEST) --all

## make test-cuda   the promises on a GPU, a few minutes; without one, what a CPU can stand in for
test-cuda: install
	$(PY) -m pytest -q -rs -m cuda tests/test_checks_cuda.py

## make cuda-wheels   what a GPU machine without a package index needs, into .whl/: `pip install --no-index --no-deps --target DIR .whl/*.whl`
cuda-wheels: install
	$(PY) -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --platform any -d .whl -r tools/cuda_wheels.txt

## make docs     the documentation site, into _site/
docs: install
	$(PY) tools/build_docs.py

## make docs-serve   the built site at http://127.0.0.1:8000 (PORT=... for another)
PORT ?= 8000
docs-serve: docs
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _site

## make bench    benchmarks and slow tests; results go to benchmarks/results
bench: install
	for b in benchmarks/bench_*.py; do $(PY) $(QUIET) $$b || exit 1; done
	$(PY) -m pytest -q tests --run-slow -m slow || test $$? -eq 5

clean: ; rm -rf _site _docs _proc build dist *.egg-info lrx_demo
