# Main targets, which also work on a fresh machine:
#   make quickstart   create a virtual environment, install, run the whole pipeline (about 8 minutes on two cores)
#   make test         install if needed, including the development tools, and run the tests
#   make docs         install the tools for the documentation if needed, and build the website in site/
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-dev
DOCUMENTATION := $(VENV)/.installed-docs
export TOKENIZERS_PARALLELISM := false

.PHONY: quickstart quickstart-short test test-full lint docs dependency-audit install clean

quickstart: $(INSTALLED)
	$(RUN) scripts/train.py -m +experiment=quickstart objective=sft,dpo,mpo
	$(RUN) scripts/evaluate.py +experiment=quickstart
	$(RUN) scripts/report.py +experiment=quickstart
	$(RUN) scripts/browse.py +experiment=quickstart

# A smoke test of the quickstart in about a minute, with fewer scenes and steps. Its scores are meaningless.
quickstart-short: $(INSTALLED)
	$(RUN) scripts/train.py -m +experiment=quickstart +debug=short objective=sft,dpo,mpo
	$(RUN) scripts/evaluate.py +experiment=quickstart +debug=short
	$(RUN) scripts/report.py +experiment=quickstart +debug=short
	$(RUN) scripts/browse.py +experiment=quickstart +debug=short

# One thread per worker, because the workers already use all cores. Sums then do not depend on the number of cores.
test: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -n auto --dist loadfile

# All tests, including the slow ones (up to 80 minutes on two cores).
test-full: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -n auto --dist loadfile -m "full or not full"

lint: $(DEVELOPMENT)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m codespell_lib
	$(VENV)/bin/shellcheck .ci/run scripts/*.sh benchmarks/*.sh

# The website of the documentation. It needs no network after the installation, and warnings are errors.
docs: $(DOCUMENTATION)
	PYTHONPATH=scripts/dev $(VENV)/bin/zensical build --clean --strict --config-file mkdocs.yml

dependency-audit: $(DEVELOPMENT)
	$(RUN) -m pip_audit -r constraints.txt --no-deps --disable-pip --progress-spinner off

install: $(DEVELOPMENT)

$(INSTALLED): pyproject.toml constraints.txt scripts/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh scripts/install.sh
	touch $(INSTALLED)

# Additional packages for the tests, the linters and the optional features.
$(DEVELOPMENT): $(INSTALLED)
	PYTHON=$(PYTHON) VENV=$(VENV) EXTRAS=dev sh scripts/install.sh
	touch $(DEVELOPMENT)

$(DOCUMENTATION): $(INSTALLED)
	PYTHON=$(PYTHON) VENV=$(VENV) EXTRAS=docs sh scripts/install.sh
	touch $(DOCUMENTATION)

clean:
	rm -rf $(VENV) runs site
