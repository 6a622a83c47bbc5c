# `make` says what there is. Every target is a script or one command, so each can be called without make as well.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help up down test lint unit flows database molecule bench image lock doc
export BOX_NAME BOX_PORT FORCE

PYTEST = .venv/bin/pytest --junitxml .cache/reports/$@.xml

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  BOX_NAME=prefect-box and BOX_PORT=4200 choose another box; FORCE=1 does not ask."

up: ## a working Prefect on PostgreSQL in a container of this machine
	@box/up

down: ## remove that container with its data (asks first)
	@box/down

test: ## everything below, on a machine that has nothing yet
	@box/test

lint: ## everything that reads the code without running it
	@box/lint

unit: ## tests that need nothing but Python
	@box/controller
	@$(PYTEST) --numprocesses 2 tests/unit

flows: ## tests of the flows and of the modules that talk to Prefect's API
	@box/controller prefect
	@box/engine
	@box/image bookworm
	@$(PYTEST) tests/flows

database: ## tests on a real PostgreSQL
	@box/controller prefect
	@box/clients
	@box/engine
	@box/image bookworm
	@$(PYTEST) --numprocesses 2 --dist loadfile tests/database

molecule: ## the whole site on clean hosts of each tested Debian
	@box/molecule

bench: ## what is measured, and against what
	@bench/run

image: ## the images of the test hosts
	@box/engine
	@box/image bookworm
	@box/image trixie

lock: ## new releases of everything in requirements/
	@requirements/lock --upgrade

doc: ## the tables in the roles' READMEs, from their argument specs
	@box/controller
	@.venv/bin/python docs/roles.py
