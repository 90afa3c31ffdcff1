# What a person types. Each step says what it does, and does nothing when it is done already; .ci/ has the steps themselves.
.DEFAULT_GOAL := help
.PHONY: help run test bench lint lock

CONFIG ?= config/xrouter.yaml

help:
	@echo "make run     set up what is needed and serve on 127.0.0.1:8080, with the sandbox for providers without credentials"
	@echo "make test    set up what the tests need and run every one of them, after the linters"
	@echo "make bench   the gateway and its peers in turns, a quarter of an hour; rewrites docs/performance.md"
	@echo "make lint    ruff and mypy"
	@echo "make lock    renew .ci/*.lock from pyproject.toml"
	@echo
	@echo "Variables: PYTHON (a Python 3.11), XROUTER_PORT (8080), CONFIG ($(CONFIG)), TESTS (a path below tests/)"

run:
	@sh .ci/setup run
	@exec .venv/bin/xrouter quickstart -c $(CONFIG)

test:
	@sh .ci/setup test
	@sh .ci/servers
	@sh .ci/clients
	@sh .ci/lint
	@sh .ci/test $(TESTS)

bench:
	@sh .ci/setup test
	@sh .ci/servers
	@sh .ci/bench

lint:
	@sh .ci/setup test
	@sh .ci/lint

lock:
	@sh .ci/lock
