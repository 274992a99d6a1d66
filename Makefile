# Every target installs what it needs into $(VENV), once, from constraints.txt.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One thread per test process: two that each take all cores wait for one another.
TEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: setup test test-all lint demo docs clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(TEST) -m "not slow"

test-all: lint
	$(TEST)
	$(MAKE) docs

# A demo that was stopped goes on; FRESH=1 starts it anew, with the models that are there.
demo: setup
	@run=runs/demo$(if $(QUICK),-quick); how=--overwrite; \
	if [ -z "$(FRESH)" ] && [ -f $$run/config.yaml ] && [ ! -f $$run/result.json ]; then how=--resume; fi; \
	echo aligner demo $$how $(if $(QUICK),--quick); \
	$(BIN)/aligner demo $$how $(if $(QUICK),--quick) || { status=$$?; \
	if [ $$how = --resume ] && [ $$status = 2 ]; then \
	echo "make: to start anew (trained models are kept): make demo $(if $(QUICK),QUICK=1 )FRESH=1" >&2; fi; exit $$status; }

docs: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" QUICK=1 $(BIN)/python docs/run_blocks.py README.md docs/how-to/*.md

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
