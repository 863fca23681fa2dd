# make train    install what is needed into .venv, then train four small networks on the bundled data
# make test     the same installation, then lint and the fast tests; make test-all adds the slow ones
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: train test test-all lint clean

train: $(VENV)/installed
	$(RUN) -m scripts.first_results

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 -m "not slow"

test-all: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# pip keeps whatever satisfies the ranges, so a CPU-only PyTorch installed into .venv before stays (see docs/troubleshooting.md).
$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, for example: make train PYTHON=python3.12")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-translation.txt $(VENV)/installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
