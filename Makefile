# Thin: each target calls the commands that the README teaches.
#   VENV=DIR        environment to use; created when absent
#   PYTHON=python3  interpreter that creates it (3.10 or newer)
#   TORCH="..."     what pip installs as torch, e.g. TORCH="torch==2.13.0 --index-url URL" for another build
#   JOBS=2          processes that run the tests; one thread each
#   ARGS="..."      further arguments of the command, e.g. make test ARGS="-k dataset"
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= 2
RUN = $(VENV)/bin/python
STAMP = $(VENV)/.gantransfer-installed

.PHONY: demo test lint clean venv

demo: $(STAMP)
	$(RUN) -m gantransfer demo $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest -n $(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet --site-dir=build/site

venv .venv: $(STAMP)

# torch first and alone, so that nothing replaces the build chosen here
$(STAMP): requirements.txt requirements-dev.txt
	$(RUN) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(TORCH)
	grep -hv '^torch==' requirements.txt requirements-dev.txt > $(VENV)/gantransfer-requirements.txt
	$(RUN) -m pip install -r $(VENV)/gantransfer-requirements.txt
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
