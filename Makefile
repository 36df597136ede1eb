# Fallow's workshop. `make` alone lists what there is.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 20000
FROM ?= 0
KIND ?= narrow
# Files side by side, the long ones first. Much of what they do is waiting: three at once save a fifth on two quiet cores.
WORKERS ?= 2
# The share of a property's examples that `make check` tries: a quarter finds what is coarse. Everything else tries all.
EXAMPLES ?= 0.25
WHOLE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Modules are kept compiled, whatever the shell says: to compile the tests anew takes a sixth of what they take themselves.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help image demo install test check static format lint types layers sizes unit property contract e2e faults fuzz reference benchmarks simulation simulate aside clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.done  ## install what is missing, then run the main jobs on real parts; WITH_VM=1: a server lends a virtual machine
	@bash scripts/install-parts.sh --for $(if $(WITH_VM),demo-vm,demo)
	@bash scripts/as-root.sh $(BIN)/python -m demo $(if $(WITH_VM),--with-vm)

install: $(VENV)/.done  ## the command `fallow` in .venv/bin

test:  ## install what is missing, then run every test on real parts
	@bash scripts/install-parts.sh --for python
	@$(MAKE) --no-print-directory install & python=$$!; \
	bash scripts/install-parts.sh --for test; parts=$$?; wait $$python && exit $$parts
	@mkdir -p build && echo "what needs no real parts runs beside the rest, and is told at the end"; \
	bash scripts/in-background.sh $(MAKE) --no-print-directory aside >build/aside.log 2>&1 & aside=$$!; \
	bash scripts/as-root.sh $(BIN)/pytest $(WHOLE) -m "not slow" tests/e2e tests/contract; whole=$$?; \
	wait $$aside; aside=$$?; cat build/aside.log; exit $$((whole | aside))

aside: static simulation pure  # whole systems wait a third of their time: what only computes has it meanwhile

faults: $(VENV)/.done  ## what takes long: federations cut off, one-way, killed, restored; emulated virtual machines
	@bash scripts/install-parts.sh --for test
	@bash scripts/as-root.sh $(BIN)/pytest -m slow tests/e2e

check: $(VENV)/.done  ## what needs no real parts: about a minute
	@FALLOW_EXAMPLES=$(EXAMPLES) $(MAKE) --no-print-directory -j 2 pure static

static: format lint types layers sizes reference  ## what is judged without running it

format: $(VENV)/.done  ## formatting
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }

lint: $(VENV)/.done  ## lint, with the bans of the decide/ floor
	@$(BIN)/ruff check --quiet .

types: $(VENV)/.done  ## strict types
	@$(BIN)/mypy

layers: $(VENV)/.done  ## import contracts
	@$(BIN)/lint-imports --no-cache | tail -n 14 | sed '/^$$/d'

sizes: $(VENV)/.done  ## the size budget of functions and files
	@$(BIN)/python scripts/check_sizes.py

reference: $(VENV)/.done  ## generated pages are up to date
	@$(BIN)/python scripts/generate_cli_reference.py --check

pure: $(VENV)/.done  ## unit and property tests, on all cores
	@$(BIN)/pytest -q -n 3 tests/unit tests/property

unit: $(VENV)/.done  ## unit tests
	@$(BIN)/pytest -q tests/unit

property: $(VENV)/.done  ## property tests
	@$(BIN)/pytest -q tests/property

simulation: $(VENV)/.done  ## 200 runs of the whole system under virtual time and faults, and the mistakes they must find
	@$(BIN)/pytest -q -n auto tests/simulation

simulate: $(VENV)/.done  ## many more runs, on all cores: make simulate SEEDS=20000 FROM=0 KIND=hosting (or federation, wide)
	@PYTHONPATH=src:tests $(BIN)/python -m simulation --seeds $(SEEDS) --from $(FROM) --kind $(KIND)

contract: $(VENV)/.done  ## every back-end against its contract, on real parts
	@bash scripts/install-parts.sh --for test
	@bash scripts/as-root.sh $(BIN)/pytest tests/contract

e2e: $(VENV)/.done  ## whole system on real parts
	@bash scripts/install-parts.sh --for test
	@bash scripts/as-root.sh $(BIN)/pytest $(WHOLE) tests/e2e

fuzz: $(VENV)/.done  ## what the API's description allows and forbids, at random, for up to two hours
	@FALLOW_FUZZ_EXAMPLES=500 $(BIN)/pytest tests/e2e/test_fuzz.py

benchmarks: $(VENV)/.done  ## figures, as JSON in benchmarks/results
	@mkdir -p benchmarks/results
	@$(BIN)/python benchmarks/placement.py --large --json benchmarks/results/placement.json
	@for name in federation_divide failover glitches leases store access rollup sessions joins guesses join_ready image_jobs; do $(BIN)/python benchmarks/$$name.py --json benchmarks/results/$$name.json; done
	@$(BIN)/python benchmarks/store.py --engine etcd --json benchmarks/results/store-etcd.json
	@$(BIN)/python benchmarks/rollup.py --etcd --json benchmarks/results/rollup-etcd.json
	@bash scripts/install-parts.sh --for demo
	@bash scripts/as-root.sh $(BIN)/python benchmarks/drain.py --json benchmarks/results/drain.json
	@bash scripts/as-root.sh $(BIN)/python benchmarks/loss.py --json benchmarks/results/loss.json

image: $(VENV)/.done  ## the control plane as the image localhost/fallow, from this machine's own Python
	@bash scripts/as-root.sh $(BIN)/python scripts/build_image.py

clean:  ## remove what the targets made in this folder
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.done: pyproject.toml requirements.txt scripts/install-parts.sh
	@bash scripts/install-parts.sh --for python
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
