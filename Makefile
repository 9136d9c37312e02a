# Tools run as `.venv/bin/python -m ...`: pip's console scripts break in folders with spaces in their path.

.DEFAULT_GOAL := help
.PHONY: help setup test test-all lint format quickstart quickstart-full clean

JOBS ?= 2
ARGS ?=
PYTEST = JAX_PLATFORMS=cpu .venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv and install everything into it (the targets below do so themselves)
	@bash scripts/setup.sh

quickstart: setup ## Pretrain a small video encoder, probe it, write runs/quickstart/report.html
	.venv/bin/python -m scripts.quickstart $(ARGS)

quickstart-full: setup ## The same in three stages: masked video, then captions, then next words; half an hour
	.venv/bin/python -m scripts.quickstart --full $(ARGS)

test: setup ## Run the fast tests (a few minutes); ARGS="-k name" picks some, JOBS=8 runs more at once
	$(PYTEST) -m "not slow" $(ARGS)

test-all: setup ## Run all tests, the slow ones too
	$(PYTEST) $(ARGS)

lint: setup ## Check style, format and which package may import which
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-logo

format: setup ## Format the code and mend what can be mended by itself
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

clean: ## Remove .venv and caches (runs and data stay)
	rm -rf .venv .venv-setup.log .pytest_cache .ruff_cache .import_linter_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
