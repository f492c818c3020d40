# `make run` and `make test` are the two commands of the README. Each is
# complete on a fresh machine with Python 3.11 or later, and quick once the
# virtual environment is there.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV   := .venv
PYTHON := $(VENV)/bin/python
# The benchmark runs on Debian's Python where there is one, as the others run
# as Debian builds them: a Python built without profile-guided optimisation,
# as version managers often make it, takes a third more CPU.
BENCH_VENV := .venv-bench
# What checks the scripts of the page; nothing of it is served.
NODE_MODULES := tests/js/node_modules
# Debian keeps the brokers of the benchmark in /usr/sbin, which is not on
# everyone's path, and PostgreSQL's programs in a directory of their own.
export PATH := $(PATH):/usr/sbin:/sbin:$(lastword $(wildcard /usr/lib/postgresql/*/bin))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Options for the server, as in: make run ARGS="--tcp 127.0.0.1:0"
ARGS ?=
# Options for pytest, as in: make check PYTEST_ARGS="tests/core -x"
PYTEST_ARGS ?=
# Of the tests that may run beside each other so many at once; make test JOBS=0 for none.
JOBS ?= 3
SIDE_BY_SIDE = $(if $(filter-out 0,$(JOBS)),--numprocesses=$(JOBS) --dist=worksteal)
# The tests that were asked for may all be of one kind: pytest's code for none is 5.
NONE_IS_FINE = $(if $(PYTEST_ARGS),|| [ $$? = 5 ])
# Rows of the benchmark, as in: make bench ROWS=R1,R2 (all without it)
ROWS ?=

.PHONY: help run cluster test check soak bench storms screenshots format clean lint debian-check debian-test debian-bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## install what is missing and start the server
	@cat tools/next-steps.txt
	@exec $(PYTHON) -m tim_trio serve --greet $(ARGS)

cluster: $(VENV)/.installed ## run etcd and three nodes on this machine; NODES=5 for more
	@tools/need-programs etcd=etcd-server
	@exec tools/run-cluster $(PYTHON) $(or $(NODES),3)

test: debian-test $(VENV)/.installed-dev $(NODE_MODULES)/.installed ## everything: format, lint, types, all tests with coverage
	@$(MAKE) --no-print-directory lint
	$(PYTHON) -m pytest -m "not soak and not alone" $(SIDE_BY_SIDE) --cov --cov-report= $(PYTEST_ARGS) $(NONE_IS_FINE)
	$(PYTHON) -m pytest -m "not soak and alone" --cov --cov-append --cov-report= $(PYTEST_ARGS) $(NONE_IS_FINE)
	$(PYTHON) -m coverage report
	$(PYTHON) -m coverage report --include='tim_trio/protocol/*,tim_trio/core/*' --fail-under=100

check: debian-check $(VENV)/.installed-dev ## the part of `make test` that takes less than two minutes
	@$(MAKE) --no-print-directory lint
	$(PYTHON) -m pytest -m "not slow and not soak" $(SIDE_BY_SIDE) --hypothesis-profile=quick $(PYTEST_ARGS)

# SOAK_SECONDS=180 is a short one; SOAK_SHARE is of a core, see tests/soak/.
soak: debian-test $(VENV)/.installed-dev ## too long for `make test`: half an hour of churn, the fuzzers at length
	$(PYTHON) -m pytest -m soak --timeout=3600 $(PYTEST_ARGS)

bench: debian-bench $(BENCH_VENV)/.installed ## compare with other brokers; ROWS=R1,R2 for a part
	$(BENCH_VENV)/bin/python -m bench $(if $(ROWS),--rows $(ROWS))

storms: $(VENV)/.installed-dev ## streams beside a rush of logins and beside attacks, eight minutes
	$(PYTHON) -m bench.storms

screenshots: debian-test $(VENV)/.installed-dev $(NODE_MODULES)/.installed ## take the pictures of the page that docs/ shows
	@[ -n "$$(fc-list :lang=zh)" ] || tools/need-programs --install fonts-wqy-microhei
	TIM_PHOTOGRAPH=1 $(PYTHON) -m pytest tests/browser -q

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format: $(VENV)/.installed-dev ## rewrite the sources in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

clean: ## remove everything that was made here
	rm -rf $(VENV) $(BENCH_VENV) $(NODE_MODULES) build dist bench/build bench/out .coverage .coverage.* \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run start at once; a change of pyproject.toml
# installs again.
$(VENV)/.python: tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.python
	$(PYTHON) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.python
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(NODE_MODULES)/.installed: tests/js/package-lock.json | debian-test
	npm ci --prefix tests/js --no-audit --no-fund --silent
	@touch $@

$(BENCH_VENV)/.installed: pyproject.toml tools/make-venv
	@TIM_PYTHON="/usr/bin/python3 python3.11 python3" tools/make-venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable '.[bench]'
	@touch $@

debian-check:
	@tools/need-programs node=nodejs etcd=etcd-server initdb=postgresql

debian-test:
	@tools/need-programs ffmpeg=ffmpeg ffprobe=ffmpeg cc=gcc,libc6-dev \
	    node=nodejs npm=npm etcd=etcd-server ip=iproute2 initdb=postgresql chromium=chromium

debian-bench:
	@tools/need-programs nats-server=nats-server redis-server=redis-server \
	    mosquitto=mosquitto nginx=nginx-light,libnginx-mod-rtmp etcd=etcd-server cc=gcc,libc6-dev node=nodejs npm=npm
