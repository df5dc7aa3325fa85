#!/usr/bin/env bash
# Install what the tests need into a virtual environment, then lint, type-check and test.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh
install_arbench "test"
say "lint (ruff), import directions (import-linter), types (mypy)"
"$venv/bin/ruff" check .
"$venv/bin/lint-imports" --no-cache
"$venv/bin/mypy"
say "tests, in two processes (-n 0: in one)"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # spinning threads stall each other on a busy machine
"$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
