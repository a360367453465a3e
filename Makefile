# tomoexport: `make demo` and `make test` are all that a fresh Debian or Ubuntu with git, make and Python needs.
# PYTHON=/path/to/python chooses the Python (3.8 to 3.12; otherwise the best one found, 3.10 first).

VENV ?= .venv
PYTEST ?=
# As many tests at once as there are cores; a file of tests stays together.
WORKERS ?= auto
DEMO ?=
# Of test-faults: verbs, --sample N, --kinds ...; and how many inputs are damaged.
FAULTS ?=
COUNT ?= 2000
# The protocol tests that run on Python 3.8 too, where scipion-em-reliontomo is not installed.
CHAIN ?= TestTomoExportChain
ALONE ?= TestTomoExportPseudoSubtomosAlone

TESTS := tomoexport/tests
RUNNER := $(TESTS)/test_scipion_runner.py
RUN := VENV=$(VENV) tools/with-env
SUITE := python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help env demo check test test-faults test38 test-engine env-cryodrgn test-cryodrgn lint types screenshots hooks bench clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

env:  ## make the environment (.venv) with Scipion and the plugin, or keep it if nothing changed
	@tools/environment.sh $(VENV)

demo: env  ## simulate two tilt series and take them through the whole chain in a Scipion project
	@$(RUN) python -m scipion python tools/demo.py $(DEMO)

check: lint types  ## before a commit: lint, types and the quick tests, less than 3 minutes
	@$(RUN) $(SUITE) -m "not slow" --ignore=$(RUNNER) $(PYTEST)

test: env  ## the whole suite (PYTEST="..." is handed on)
	@$(RUN) $(SUITE) $(PYTEST)

test-faults: env  ## faults at every file operation of every verb, and COUNT damaged inputs: an hour or more
	@$(RUN) python -m tomoexport.tests.failures.faults $(FAULTS)
	@$(RUN) python -m tomoexport.tests.failures.mutations --count $(COUNT)

test38:  ## engine, io, jobs and two protocol tests on Python 3.8, which Scipion's installer brings
	@PYTHON=$(PYTHON38) tools/environment.sh .venv38 3.8
	@VENV=.venv38 tools/with-env $(SUITE) $(TESTS)/test_package.py $(TESTS)/engine $(TESTS)/io $(TESTS)/jobs $(TESTS)/failures \
		$(RUNNER)::test_scipion_loads_the_plugin "$(RUNNER)::test_protocols[$(CHAIN)]" "$(RUNNER)::test_protocols[$(ALONE)]" \
		$(PYTEST)

test-engine:  ## everything that needs no Scipion, without Scipion, on numpy 2
	@PYTHON=$(PYTHON_ENGINE) STACK=engine tools/environment.sh .venv-engine 3.12 3.11 3.10
	@VENV=.venv-engine tools/with-env $(SUITE) $(PYTEST)

env-cryodrgn:  ## make the environment of cryoDRGN (.venv-cryodrgn), whose programs tests call
	@PYTHON=$(PYTHON_CRYODRGN) STACK=cryodrgn tools/environment.sh .venv-cryodrgn 3.11

test-cryodrgn: env env-cryodrgn  ## cryoDRGN reads what we write
	@TOMOEXPORT_CRYODRGN="$(CURDIR)/.venv-cryodrgn" $(RUN) python -m pytest -m cryodrgn $(TESTS)/programs $(PYTEST)

screenshots: env  ## pictures of every form, wand and viewer, under Xvfb, in screenshots/; the best ones in docs/
	@$(RUN) python -m scipion python tools/screenshots.py screenshots

lint: env  ## ruff, and the style of the code
	@$(RUN) python -m ruff check --output-format concise .

types: env  ## annotations of engine, options and api (mypy)
	@$(RUN) python -c 'import sys; sys.exit(sys.version_info < (3, 10))' && $(RUN) python -m mypy || { \
		$(RUN) python -c 'import sys; sys.exit(sys.version_info >= (3, 10))' && \
		echo "types: left out, mypy is checked on Python 3.10 and later"; }

hooks: env  ## check before every commit, by pre-commit
	@$(RUN) python -m pip install -q --disable-pip-version-check pre-commit
	@$(RUN) pre-commit install

bench:  ## compare with warpylib on this computer; times of all stages; scaling (benchmarks/README.md)
	@tools/environment.sh $(VENV)
	@benchmarks/setup_peer.sh
	@$(RUN) python benchmarks/bench_subtomo.py
	@$(RUN) python benchmarks/bench_tomogram.py
	@$(RUN) python benchmarks/bench_stages.py
	@$(RUN) python benchmarks/bench_pseudo.py
	@$(RUN) python benchmarks/plot_scaling.py

clean:  ## remove the environments, the demo's data, picture and Scipion project, and what tests left
	rm -rf .venv .venv38 .venv-engine .venv-cryodrgn .scipion demo .pytest_cache .ruff_cache build dist *.egg-info benchmarks/.peer-venv benchmarks/.timing
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
