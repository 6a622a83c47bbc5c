# `make` lists the targets. Each one is a script or a few commands that also work without make.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help up down test test-all test-kubernetes lint unit api database molecule bench image lock doc screenshots
export BOX_NAME BOX_PORT FORCE

PYTEST = .venv/bin/pytest --junitxml .cache/reports/$@.xml

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  BOX_NAME (prefect-box) and BOX_PORT (4200) select the box; FORCE=1 makes down skip its question."

up: ## start a working Prefect on PostgreSQL in a container on this machine
	@box/up

down: ## remove that container with its data (asks first)
	@box/down

test: ## run lint and the tests, on a machine that has nothing installed yet
	@box/test

test-all: ## the same with the tests that take long
	@box/test all

test-kubernetes: ## test workers of Kubernetes pools on a real API server; the first time builds it, in half an hour
	@box/controller prefect
	@box/kubernetes
	@$(PYTEST) tests/kubernetes

lint: ## check the code without running it
	@box/lint

unit: ## run the tests that need nothing but Python
	@box/controller
	@$(PYTEST) --numprocesses 2 --dist worksteal tests/unit

api: ## test the flows, and the modules that use Prefect's API
	@box/controller prefect
	@box/engine
	@box/image bookworm
	@$(PYTEST) --numprocesses 2 --dist loadfile tests/api

database: ## test pgprefect on a real PostgreSQL
	@box/controller prefect all
	@box/clients
	@box/prometheus
	@box/engine
	@box/image bookworm
	@$(PYTEST) --numprocesses 3 --dist loadfile tests/database

molecule: ## test the whole site on clean hosts of each supported Debian
	@box/molecule

bench: ## measure, and compare with doing the same by hand
	@bench/run

image: ## build the images of the test hosts
	@box/engine
	@box/image bookworm
	@box/image trixie

lock: ## lock the newest releases of everything in requirements/
	@requirements/lock --upgrade

doc: ## write the roles' READMEs from their argument specs, and the dashboards for Grafana
	@box/controller
	@.venv/bin/python docs/roles.py
	@.venv/bin/python docs/grafana.py

screenshots: ## take the pictures in docs/images, of a box of its own with monitoring
	@box/screenshots
