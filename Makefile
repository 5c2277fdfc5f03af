# The words of CONTRIBUTING. `sudo ./test.sh` sets everything up and runs everything; these are its parts.
bin := .venv/bin

.PHONY: check test sim golden

check: ## style, types, architecture
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports --no-cache

test:
	./test.sh

sim: ## two thousand seeds of small fleets
	$(bin)/oak sim seed 0 --count 2000

golden: ## write anew what is generated; review the difference
	$(bin)/python -m oakestra.cli.grammar.reference > docs/reference/cli.md
	$(bin)/python tests/simulation/test_scripts.py --write
