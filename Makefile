# make demo     the whole pipeline on this machine, from nothing
# make test     the default test suite
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PRESET ?= demo
SET    ?=
# of a suite, the files to run; all of them unless told
TESTS  ?=
export OMP_NUM_THREADS ?= 2
# an index with CPU builds of torch saves gigabytes where no GPU is; empty means the usual index
TORCH_INDEX ?=
# the libraries we are measured against, apart from ours; name an environment that has them to use it as it is
OWN_BENCH_VENV := .venv-bench
BENCH_VENV ?= $(OWN_BENCH_VENV)
# processes that run tests, one thread each: more threads than cores would wait for each other
JOBS ?= 2
PARALLEL := --numprocesses $(JOBS) --dist loadfile
# options of the benchmarks, e.g. BENCH_ARGS='--layers 6 --rounds 5'
BENCH_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo laptop plan test coverage check slow faults cluster bench bench-encode bench-train bench-rerank bench-pool bench-mine bench-plan bench-rows bench-engines bench-venv gpu-check ui clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## virtual environment with every version pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: install  ## the whole pipeline on CPU, with real data; prints the report's path
	$(BIN)/icl-embed run full-pipeline --here --preset $(PRESET) $(foreach setting,$(SET),--set $(setting))

laptop: install  ## the same with more data, more steps and every control (43 minutes on two cores with bf16)
	$(MAKE) demo PRESET=laptop

plan: install  ## what would run, and why
	$(BIN)/icl-embed plan --preset $(PRESET) $(foreach setting,$(SET),--set $(setting))

test: export OMP_NUM_THREADS := 1
test: install  ## the default test suite (the architecture's part of it is in check); TESTS=tests/flows for less
	$(BIN)/python -m pytest $(PARALLEL) --ignore=tests/test_architecture.py $(TESTS)

coverage: export OMP_NUM_THREADS := 1
coverage: install  ## the same, and which lines no test ran (half as long again)
	$(BIN)/python -m pytest $(PARALLEL) --cov=flows --cov=tasks --cov=icl_embed --cov-report=term:skip-covered $(TESTS)

check: install  ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

slow: export OMP_NUM_THREADS := 1
slow: install  ## tests that take minutes or fetch real sources
	$(BIN)/python -m pytest $(PARALLEL) -m slow --timeout 1800 $(TESTS)

faults: install  ## kill real processes, fill real disks
	$(BIN)/python -m pytest -m fault --timeout 900 $(TESTS)

cluster: export OMP_NUM_THREADS := 1
cluster: install  ## two Ray nodes on this machine: the same results, and nothing lost with a node
	$(BIN)/pip install --quiet --constraint constraints.txt 'ray>=2.50'
	$(BIN)/python -m pytest -m cluster --timeout 600 $(TESTS)

bench: bench-encode bench-train bench-rerank  ## measurements against other libraries; results go to tests/bench/results

bench-encode: install bench-venv  ## encoding: FlagEmbedding, sentence-transformers
	BENCH_VENV=$(BENCH_VENV) $(BIN)/python -m tests.bench.encode $(BENCH_ARGS)

bench-train: install bench-venv  ## training: FlagEmbedding's ICL trainer
	BENCH_VENV=$(BENCH_VENV) $(BIN)/python -m tests.bench.train $(BENCH_ARGS)

bench-rerank: install  ## reranking: the lightweight way against full depth and the reference way
	$(BIN)/python -m tests.bench.rerank $(BENCH_ARGS)

bench-pool: install  ## building a pool of 10 million texts: time, memory, and against datasets.map (half an hour)
	$(BIN)/python -m tests.bench.pool $(BENCH_ARGS)

bench-mine: install  ## hard negatives: numpy, FlagEmbedding's hn_mine, sentence-transformers; BENCH_ARGS='--rows … --model …'
	$(BIN)/python -m tests.bench.mine $(BENCH_ARGS)

bench-plan: install  ## what `icl-embed plan` says that training takes, against real steps
	$(BIN)/python -m tests.bench.plan $(BENCH_ARGS)

bench-rows: install  ## memory of training from 10 thousand to 2 million rows (7 GB of disk for a while)
	$(BIN)/python -m tests.bench.rows $(BENCH_ARGS)

bench-engines: install  ## two processes against one, and Ray against a pipe
	$(BIN)/pip install --quiet --constraint constraints.txt 'ray>=2.50'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.engines $(BENCH_ARGS)

bench-venv: $(if $(filter $(OWN_BENCH_VENV),$(BENCH_VENV)),$(OWN_BENCH_VENV)/.installed)  ## the peers' environment

$(OWN_BENCH_VENV)/.installed: tests/bench/requirements.txt
	$(PYTHON) -m venv $(OWN_BENCH_VENV)
	$(OWN_BENCH_VENV)/bin/pip install --quiet --constraint $< $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(OWN_BENCH_VENV)/bin/pip install --quiet --requirement $<
	@touch $@

gpu-check: install  ## on a machine with a GPU: the same results as on CPU, its speed, few-shot against its controls
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m tests.bench.gpu_speed --out tests/bench/results/gpu_speed.json
	$(BIN)/python -m tests.bench.learn --variants tests/bench/variants.toml --jobs preset:3 none:3 plain:3 --out store/learn --set train.launch.device=cuda --set train.batch_tokens=65536 --set evaluate.batch_tokens=65536 $(BENCH_ARGS)
	$(BIN)/python -m tests.bench.learn_table --learned store/learn/learn.json --store store --out tests/bench/results/learn.json

ui: install  ## Prefect server, worker and deployments on this machine
	$(BIN)/icl-embed ui

clean:  ## remove the environment and caches; artefacts stay
	rm -rf $(VENV) $(OWN_BENCH_VENV) .pytest_cache .mypy_cache .ruff_cache
