# Two commands: `make demo` shows the main job working, `make test` proves it. Only Python 3.11 and
# make are needed; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export DEBUG ?= 1

.PHONY: help setup demo demo-cells serve test test-slow test-full coverage check e2e screenshots fmt texts docs docs-site bench bench-report chaos mutants package

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## a virtual environment in .venv

$(STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a minute or two the first time) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $(STAMP)

demo: setup  ## the main job, working; then the admin on port 8000
	@$(BIN)/python manage.py migrate --verbosity 0
	@WEBHOOKS_ALLOWED_NETWORKS=127.0.0.0/8 $(BIN)/python manage.py demo $(ARGS)

demo-cells: setup  ## two cells fed by a log of three nodes, to verified receipts
	@$(BIN)/python -m cells.demo

serve: setup  ## the production server; ARGS="--port 8000 --processes 2 --threads 32"
	@$(BIN)/python -m config.serve $(ARGS)

FAST := not slow and not full and not e2e and not clients

test: setup pgbouncer  ## the tests; ARGS="PATHS OPTIONS" for some of them, slow ones too
	$(BIN)/python -m pytest -n 3 --dist worksteal -rs $(if $(ARGS),,-m "$(FAST)") $(ARGS)

# These kill, freeze and wait more than they compute, so more of them go at a time.
test-slow: setup pgbouncer  ## the tests that wait for processes, servers and clocks; ARGS=PATHS
	$(BIN)/python -m pytest -n 4 --dist worksteal -rs -m "slow and not full" $(ARGS)

test-full: setup pgbouncer  ## also the slow ones
	$(BIN)/python -m pytest -m "not e2e" -rs

# Apart from `make test`: measuring costs time, and the floor is looked at once a night.
coverage: setup pgbouncer  ## the tests, measured; fails below the floor in pyproject.toml
	@rm -f var/.coverage*
	$(BIN)/python -m pytest -n 3 --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

check: setup  ## format, lint, types, imports, Django's checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry . --config deptry.toml
	$(BIN)/deptry webhooks --known-first-party webhooks
	$(BIN)/python manage.py makemigrations --check --dry-run
	@$(BIN)/python -m config.supply audit
	@DEBUG=0 SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	 WEBHOOKS_ENCRYPTION_KEYS=$$($(BIN)/python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())') \
	 ALLOWED_HOSTS=example.com DATABASE_URL=postgres://nobody@127.0.0.1:1/none REDIS_URL=redis://127.0.0.1:1/0 \
	 $(BIN)/python manage.py check --deploy --fail-level WARNING

# The lock files, from the requirements files beside them: every package with the hashes of its files.
# uv is installed apart; it is in no environment of ours.
LOCKS := requirements.lock requirements-tracing.lock requirements-cells.lock requirements-dev.lock \
 requirements-e2e.lock requirements-bench.lock requirements-docs.lock requirements-package.lock

.PHONY: lock audit sbom
lock: setup
	@test -x var/uv/bin/uv || { $(PYTHON) -m venv var/uv && var/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@for lock in $(LOCKS); do \
	 var/uv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header \
	 --no-annotate $${lock%.lock}.txt -o $$lock || exit 1; done

# Known advisories against the locked versions; without a database of them it says so.
audit: setup
	@$(BIN)/python -m config.supply audit

sbom: setup
	@mkdir -p var
	@$(BIN)/python -m config.supply sbom > var/sbom.json
	@echo "var/sbom.json"

# A real browser: Debian's Chromium, or the one that CHROMIUM names.
e2e: .venv/.e2e browser  ## the admin and the portal in a real browser
	$(BIN)/python -m pytest -n 3 --dist worksteal -m e2e tests/e2e --tracing retain-on-failure --output var/e2e $(ARGS)

screenshots: .venv/.e2e browser  ## pictures of the admin and the portal for docs/
	$(BIN)/python -m pytest -m e2e tests/e2e/screenshots.py tests/e2e/portal_screenshots.py -p no:randomly

# The real pooler; without it its tests are skipped.
.PHONY: pgbouncer
pgbouncer:
	@test -n "$$(PATH="$$PATH:/usr/sbin" command -v pgbouncer)" \
	 || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	      && { apt-get install -y --no-install-recommends pgbouncer || { apt-get update && apt-get install -y --no-install-recommends pgbouncer; }; } >/dev/null 2>&1; } \
	 || echo "PgBouncer is missing, its tests are skipped (Debian: apt-get install pgbouncer)."

.PHONY: browser
browser:
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" \
	 || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get install -y --no-install-recommends chromium >/dev/null; } \
	 || { echo "Chromium is missing: install it (Debian: apt-get install chromium) or set CHROMIUM to its path."; exit 1; }

.venv/.e2e: $(STAMP) requirements-e2e.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-e2e.lock
	@touch $@

bench: .venv/.bench  ## figures beside yardsticks; ARGS=SCENARIO
	$(BIN)/python -m benchmarks $(ARGS)

# Everything, an hour or so; then docs/performance.md and its plots.
bench-report: .venv/.bench  ## all figures, then docs/performance.md
	$(BIN)/python -m benchmarks $(or $(ARGS),all)
	$(BIN)/python -m benchmarks.report

.venv/.bench: $(STAMP) requirements-bench.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

# Generators that cannot be had are named; their tests are skipped.
CLIENTS := var/clients
.PHONY: clients
clients: setup  ## clients that are generated from the description: compile, run one flow
	@mkdir -p $(CLIENTS)
	@test -x $(CLIENTS)/python/bin/python || $(PYTHON) -m venv $(CLIENTS)/python
	@$(CLIENTS)/python/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt \
	 || echo "openapi-python-client cannot be installed."
	@cp tests/clients/package.json $(CLIENTS)/
	@npm install --prefix $(CLIENTS) --silent --no-fund --no-audit || echo "npm cannot install hey-api, redocly and spectral."
	@GOBIN=$(CURDIR)/$(CLIENTS)/go go install github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 2>/dev/null \
	 || echo "oapi-codegen cannot be installed."
	@GOBIN=$(CURDIR)/$(CLIENTS)/go go install github.com/ogen-go/ogen/cmd/ogen@v1.24.0 2>/dev/null \
	 || echo "ogen cannot be installed."
	@test -f $(CLIENTS)/openapi-generator-cli-7.17.0.jar \
	 || mvn -q -B dependency:copy -Dartifact=org.openapitools:openapi-generator-cli:7.17.0 -DoutputDirectory=$(CLIENTS) \
	 || echo "openapi-generator cannot be installed."
	$(BIN)/python -m pytest -m clients tests/clients -rs

# Apart from .venv, which must not depend on what builds packages.
PACKAGE := var/package
package:  ## wheels of the app and of the receivers' helper in var/dist, checked
	@test -x $(PACKAGE)/bin/python || $(PYTHON) -m venv $(PACKAGE)
	@$(PACKAGE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-package.lock
	@rm -rf var/dist
	$(PACKAGE)/bin/python -m build --outdir var/dist .
	$(PACKAGE)/bin/python -m build --outdir var/dist receiver_package
	$(PACKAGE)/bin/twine check --strict var/dist/*
	$(PACKAGE)/bin/check-wheel-contents var/dist/*.whl

# What cannot be had is named; each runs tests/host_project from the wheel in an environment of its own.
# Pythons: of pyenv or on PATH (Debian testing has 3.14); Postgres: from npm.
.PHONY: matrix
matrix: package  ## the app from its wheel with each Python, Django and Postgres that can be had
	$(BIN)/python -m tests.host_project.matrix $(ARGS)

chaos: setup  ## break things and count; SEED=1 MINUTES=10
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),1) $(ARGS)

# Several hosts as network namespaces of this machine: needs root and iproute2, and says what is missing.
.PHONY: hosts
hosts: setup pgbouncer  ## three hosts, and what breaks between them; SEED=1 MINUTES=3
	$(BIN)/python -m tests.hosts --seed $(or $(SEED),1) --minutes $(or $(MINUTES),3) $(ARGS)

.PHONY: chaos-cells
chaos-cells: setup  ## the same with two cells and their log; ARGS="--events 20000 --kills 5"
	@$(BIN)/python -m tests.cells.chaos $(ARGS)

# Sabotages of a copy of the code, each of which chaos or a test has to catch; ARGS names some of them.
mutants: setup  ## sabotage copies of the code; each must be caught
	$(BIN)/python -m tests.chaos.mutants $(ARGS)

docs: setup  ## regenerate docs/events.md, commands.md, settings.md and openapi.yaml
	@mkdir -p var docs
	$(BIN)/python -m config.settings_page > var/settings.md
	@mv var/settings.md docs/settings.md
	$(BIN)/python manage.py event_reference > var/events.md
	@mv var/events.md docs/events.md
	$(BIN)/python manage.py command_reference > var/commands.md
	@mv var/commands.md docs/commands.md
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml

# Apart from .venv: the generator pins packages of its own.
DOCS := var/docs
docs-site: setup  ## the documentation as a site with search, in var/site
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	@echo "var/site/index.html"

texts: setup  ## gather and compile the portal's texts; names what is not translated
	@$(BIN)/python -m config.texts

fmt: setup  ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
