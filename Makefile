# make demo    train, sample and evaluate on handwritten digits   make test      the fast tests
# make setup   the environment alone                              make test-all  with the slow ones
# make bench   timings                                            make lint      ruff
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := runs/digits

.PHONY: setup demo test test-all bench lint lock clean
setup: $(VENV)/.complete

$(VENV)/.complete: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(RUN) -m experiments.train --config=configs/digits.py --workdir=$(DEMO)
	$(RUN) -m experiments.sample --workdir=$(DEMO)
	$(RUN) -m experiments.evaluate --workdir=$(DEMO)

test: setup
	$(RUN) -m pytest -n 2 --dist loadfile

test-all: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m ""

bench: setup
	$(RUN) -m benchmarks.train_step

lint: setup
	$(RUN) -m ruff check .

# Writes the locked versions of every supported Python, with their hashes and no index.
lock:
	uv pip compile --quiet --universal --generate-hashes --extra dev --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header pyproject.toml -o requirements.txt

clean:
	rm -rf $(VENV) runs
