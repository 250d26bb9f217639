# Each target does its own set-up in .venv; only make and Python 3.11 or later have to be there.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --no-compile
TORCH := torch==2.13.0 torchaudio==2.11.0
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu

# The service says this to onnxruntime by itself; tests and training import it directly too.
export ORT_DISABLE_TELEMETRY := 1

# A stamp bears the sum of what it stands for: other requirements, other name, a new installation.
stamp = .venv/.$(1)-$(shell cat $(2) pyproject.toml | cksum | cut -d' ' -f1)
SERVE := $(call stamp,serve,requirements/serve.txt)
TESTS := $(call stamp,tests,requirements/test.txt)
EXTRA := $(call stamp,extra,requirements/pesq.txt Makefile)
stamped = rm -f .venv/.$(1)-* && touch $@

.PHONY: run test test-all lint bench bench-peers lock clean

run: $(SERVE)  ## serve on EARMARK_HOST:EARMARK_PORT, 127.0.0.1:8000 by default
	@exec $(BIN)/earmark serve

test: $(EXTRA)  ## all but the slow tests and those for a GPU
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(EXTRA)
	$(BIN)/python -m pytest

lint: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(EXTRA)  ## the short form, about three minutes
	$(BIN)/python -m benchmarks --starts 3 --requests 20 --load-s 4
	$(BIN)/python -m benchmarks.engine --rounds 3 --pass-s 0.2 --mixes mixed
	$(BIN)/python -m benchmarks.http --rounds 3 --seconds 2 --load-s 6 --shares 0.7

bench-peers: $(EXTRA)  ## other servers with the same model, about a quarter of an hour
	$(BIN)/python -m benchmarks.peers

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --excludes requirements/excludes.in $(LOCK_FLAGS)
LIKE_SERVE := pyproject.toml --constraints requirements/serve.txt

lock: $(BIN)/python  ## versions stay where they can; LOCK_FLAGS=--upgrade takes the newest
	$(PIP) uv==0.13.8
	$(COMPILE) pyproject.toml -o requirements/serve.txt
	$(COMPILE) $(LIKE_SERVE) --extra media -o requirements/media.txt
	$(COMPILE) $(LIKE_SERVE) --extra gpu --no-emit-package onnxruntime -o requirements/gpu.txt
	$(COMPILE) $(LIKE_SERVE) --extra media --extra train --extra dev --no-emit-package pesq -o requirements/test.txt
	$(COMPILE) --no-deps requirements/pesq.in -o requirements/pesq.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Earmark needs Python 3.11 or later; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(SERVE): $(BIN)/python
	$(PIP) --require-hashes -r requirements/serve.txt
	$(PIP) --no-deps --editable .
	@$(call stamped,serve)

$(TESTS): $(SERVE)
	$(PIP) --require-hashes -r requirements/test.txt
	@$(call stamped,tests)

# What a machine may be without: a CPU build of torch (from the index, else from where pip looks by itself), and a C
# compiler for pesq. The tests that need them are skipped then, each with its reason.
$(EXTRA): $(TESTS)
	$(PIP) --retries 1 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH) 2>/dev/null \
		|| $(PIP) $(subst 2.13.0,2.13.0+cpu,$(TORCH)) 2>/dev/null \
		|| echo "No CPU build of torch for this machine: the tests that need it are skipped."
	@$(BIN)/python -c "import torchaudio" 2>/dev/null || $(BIN)/python -m pip --quiet uninstall --yes torchaudio 2>/dev/null
	$(PIP) --require-hashes -r requirements/pesq.txt 2>/dev/null \
		|| echo "No C compiler for pesq: the tests that need it are skipped."
	@$(call stamped,extra)
