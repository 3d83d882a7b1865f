# Everything a person types here. Needs python3 (3.11 or newer, with venv) and nothing else to begin with.
#
#   make demo      two offices and a broker on this machine, until Ctrl-C
#   make test      every check and every test; as root it first installs the Debian packages tests drive;
#                  npm packages of one test go to its own folder, from a lock
#   make check     the checks alone: no network, no Debian package
#   make install   .venv with the console scripts in .venv/bin, from hashes
#   make simulate-keys   40 pairs over 90 days: what a thief of an office's keys could still open
#   make simulate  play one schedule of faults over the real daemons: SEED=7
#   make simulate-several  one with five offices and alerts to some of them: SEED=7
#   make simulate-week   nine days between two regions, never switched off: what brokers' disks and the lines then hold
#   make simulate-300  300 new ones; make simulate-mistakes finds every mistake planted on purpose
#   make reconcile-schedules  1000 whose published logs, held against each other, must give no finding
#   make every-step   die at every step of backups and of ceremonies with the recovery sheet, not at a sample
#   make bench     measurements; `make -s bench` prints JSON lines and nothing else on standard output
#   make bench-audit   what the log has a goal for, over a million entries (ENTRIES=100000 for fewer), beside Go
#   make kills     kill real processes at random for long: KILLS=100 SEED=1
#   make lock      write requirements.lock anew from pyproject.toml (UPGRADE=1 takes newer versions)
#   make opener-lock   the same for the opener in Node.js, tests/independent/opener/package-lock.json
#   make clean     remove what the targets above made

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install check test demo kills simulate simulate-week simulate-300 reconcile-schedules \
  simulate-several simulate-mistakes simulate-keys every-step bench bench-audit lock clean debian opener \
  opener-lock

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

# The lock names every package with its hashes and no address; pip refuses anything else. The project itself
# comes last, without dependencies and with the build tool of the lock, so that nothing unpinned slips in.
# All talk goes to standard error: `make -s bench` promises a clean standard output.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Salween needs Python 3.11 or newer; '$(PYTHON)' is older or missing. Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv && $(PYTHON) -m venv .venv >&2; } || \
	  { rm -rf .venv; echo "python3 cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "install: packages of requirements.lock into .venv" >&2
	@$(PIP) install --require-hashes --requirement requirements.lock >&2
	@$(PIP) install --no-deps --no-build-isolation --editable . >&2
	@touch $@

check: install
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/deptry --no-ansi .
	$(BIN)/python -m tests.support.dead_code   # vulture
	$(BIN)/python -m tests.support.syntax_rules
	$(BIN)/python -m tests.support.lock_check

# Files of tests side by side; one more than cores, because many wait for processes they started.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
test: check debian opener
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

debian:
	@sh tests/support/debian_packages.sh

# Packages of the independent opener: from its own lock, by the Node.js of ours, once.
opener: install
	@$(BIN)/python -m tests.support.node_packages

opener-lock: install
	@$(BIN)/python -m tests.support.node_packages --lock

demo: install
	@$(BIN)/salween-demo

KILLS ?= 100
SEED  ?= 1
kills: install
	@SALWEEN_KILLS=$(KILLS) SALWEEN_SEED=$(SEED) $(BIN)/python -m pytest tests/scenarios/test_kills.py

PAIRS ?= 40
DAYS  ?= 90
simulate-keys: install
	@$(BIN)/python -m tests.simulation.receive_keys --pairs $(PAIRS) --days $(DAYS)

simulate: install
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation.campaign $(SEED)

simulate-week: install
	@SALWEEN_ON_S=86400 $(BIN)/python -m pytest -q -n 0 -o faulthandler_timeout=0 tests/simulation/test_metadata.py

simulate-300: install
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation.campaign --new 300

simulate-several: install
	@PYTHONHASHSEED=0 $(BIN)/python -W ignore -m tests.simulation.several $(SEED)

reconcile-schedules: install
	@SALWEEN_RECONCILE_FIRST=1000 SALWEEN_RECONCILE_COUNT=1000 $(BIN)/python -m pytest -q tests/simulation/test_reconcile.py

simulate-mistakes: install
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation.campaign --find

every-step: install
	@SALWEEN_EVERY_STEP=1 $(BIN)/python -m pytest -q tests/node/test_restore.py tests/node/test_restore_crashes.py -k dies

bench: install
	@$(BIN)/python -m bench

ENTRIES ?= 1000000
bench-audit: install
	@$(BIN)/python -m bench.audit_work --entries $(ENTRIES)

# --output-file keeps the versions already pinned unless an upgrade is asked for.
lock: install
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --extra dev \
	  --python-version 3.11 $(if $(UPGRADE),--upgrade) --output-file requirements.lock pyproject.toml
	$(BIN)/python -m tests.support.lock_check --stamp

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist tests/browser/screenshots
	rm -rf tests/independent/opener/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
