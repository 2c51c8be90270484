# Needs Python (3.11 or newer), git and make; everything else comes into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Two processes of one thread each: tests are many small tensors, which do not gain from more threads.
WORKERS ?= 2

.PHONY: setup demo check format docs

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,dev]"
	if git rev-parse --git-dir >/dev/null 2>&1; then git config core.hooksPath .githooks; fi
	touch $@

demo: $(INSTALLED)
	$(BIN)/latpix demo -o demo

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)
	$(BIN)/zensical build --clean
