# Every target installs what it needs in .venv. A second run is quick.
#   make test ARGS="-k close"     arguments for pytest (also for cov, soak, bench, demo)
#   make test WORKERS=0           one process; default 2
#   make PYTHON=/path/to/python   another Python (>= 3.11) for .venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
WORKERS ?= 2
ARGS ?=
# The modules that decide. They know no event loop and no clock, so tests can reach every branch.
PURE := $(patsubst resilient_ws/%.py,%,$(wildcard resilient_ws/api/*.py resilient_ws/core/*.py))
# Tests are checked by running them. mypy also checks their fixtures, and the API as a program uses it.
TYPED := resilient_ws $(wildcard examples/*.py tests/typing/*.py) tests/conftest.py tests/requirements.py \
	tests/faults/conftest.py tests/faults/netns.py tests/integration/conftest.py tests/integration/servers
empty :=
comma := ,
PURE_FILES := $(subst $(empty) ,$(comma),$(PURE:%=resilient_ws/%.py))

# If PYTHON is not the Python that .venv was made with, .venv is made again.
ifdef PYTHON
WHICH := -c 'import sys; print(sys.version, sys.base_prefix)'
ASKED := $(shell $(PYTHON) $(WHICH) 2>/dev/null)
ifneq ($(ASKED),)
ifneq ($(ASKED),$(shell $(PY) $(WHICH) 2>/dev/null))
$(shell rm -rf $(VENV))
endif
endif
endif

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1
export PYTHON

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.installed-run  ## run a client against an unfriendly server (20 seconds)
	@$(PY) examples/demo.py $(ARGS)

.PHONY: test
test: $(VENV)/.installed-test system  ## run all tests but the soak tests
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-dev  ## check style, format and spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/codespell

.PHONY: types
types: $(VENV)/.installed-dev  ## check types with mypy (strict) and pyright
	$(PY) -m mypy $(TYPED)
	$(VENV)/bin/pyright

.PHONY: imports
imports: $(VENV)/.installed-dev  ## check which module may import which
	$(VENV)/bin/lint-imports --no-cache

.PHONY: cov
cov: $(VENV)/.installed-test system  ## run the tests with branch coverage: 100 % of the modules that decide, 95 % of the rest
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report= $(ARGS)
	$(PY) -m coverage html --quiet
	$(PY) -m coverage report --omit='$(PURE_FILES)' --fail-under=95
	$(PY) -m coverage report --include='$(PURE_FILES)' --fail-under=100

.PHONY: soak
soak: $(VENV)/.installed-test system  ## run the long tests, and more examples of the property tests
	$(PY) -m pytest -m soak --timeout 3600 -o faulthandler_timeout=3600 $(ARGS)
	HYPOTHESIS_PROFILE=soak $(PY) -m pytest tests/property tests/faults/test_fuzz.py -n $(WORKERS) --timeout 3600 -o faulthandler_timeout=3600

.PHONY: autobahn
autobahn: $(VENV)/.installed-test  ## run the Autobahn protocol tests (needs CPython 2.7)
	@.ci/install_autobahn.sh $(VENV) $(VENV)/autobahn
	@$(PY) -m tests.autobahn.run $(VENV)/autobahn/bin/wstest $(ARGS)

.PHONY: test-plain
test-plain: $(VENV)/.installed-test system  ## run the tests through the public API of aiohttp only
	RESILIENT_WS_PLAIN=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal tests/client tests/integration tests/faults $(ARGS)

.PHONY: test-fastnet
test-fastnet: $(VENV)/.installed-test system  ## run the tests with aiohttp on aiofastnet, as in aiohttp 3.15
	AIOHTTP_TRANSPORT=aiofastnet $(PY) -m pytest -n $(WORKERS) --dist worksteal tests/transports tests/integration tests/faults $(ARGS)

.PHONY: audit-safeguards
audit-safeguards: $(VENV)/.installed-test  ## switch off each safeguard, and check that a test fails (ten minutes)
	$(PY) -m tests.safeguards --page $(ARGS)

.PHONY: bench
bench: $(VENV)/.installed-bench  ## compare the cost of a message with other clients (under five minutes)
	$(PY) -m benchmarks $(ARGS)

.PHONY: bench-full
bench-full: $(VENV)/.installed-bench  ## the same with more rounds, written to docs/performance.md with plots
	$(PY) -m benchmarks --rounds 9 --seconds 0.25 --page docs/performance.md $(ARGS)

.PHONY: herd
herd: $(VENV)/.installed-test  ## simulate a million clients after a restart, written to docs/fleet.md (ten minutes)
	$(PY) -m benchmarks.herd --capacity 20000 100000000 --also first_delay=1.25 --also first_delay=2 --page docs/fleet.md $(ARGS)

.PHONY: trips
trips: $(VENV)/.installed-test  ## count the calls and files of the five main trips, and draw them for docs/architecture.md
	$(PY) -m benchmarks.trips --page docs/architecture.md $(ARGS)

.PHONY: docs
docs: $(VENV)/.installed-docs  ## build the documentation into site/
	$(PY) -m mkdocs build --strict

.PHONY: audit
audit: $(VENV)/.installed-dev  ## check the run-time dependencies for known vulnerabilities
	@.ci/audit.sh $(VENV)/bin/pip-audit

.PHONY: format
format: $(VENV)/.installed-dev  ## format the code and apply automatic fixes
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: system
system:  ## install what the tests need besides Python: nginx, node, iproute2, iptables
	@.ci/install_test_tools.sh

.PHONY: clean
clean:  ## remove build and test output (keeps .venv)
	rm -rf build dist site htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis tests/integration/servers/node_modules
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## clean, and remove .venv
	rm -rf $(VENV)

# Installation: one stamp file per set of packages, newer than pyproject.toml once installed.

$(PY):
	@.ci/make_venv.sh $(VENV)

$(VENV)/.installed-run: pyproject.toml | $(PY)
	@echo "Installing resilient_ws into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test $(VENV)/.installed-dev $(VENV)/.installed-docs $(VENV)/.installed-bench: $(VENV)/.installed-%: pyproject.toml | $(PY)
	@echo "Installing resilient_ws and the packages for '$*' into $(VENV)"
	@$(PIP) --editable '.[$(EXTRAS_$*)]'
	@touch $@

EXTRAS_test := test
EXTRAS_dev := test,dev
EXTRAS_docs := docs
EXTRAS_bench := test,bench
