#!/usr/bin/env bash
# Everything that only a GPU can show: its tests, then the speed of the full-size models, in at most 20 minutes a call;
# the same command goes on with what was left. --quick: a few rows. --no-tests: the rows alone.
# Another Python than the checkout's own: PYTHON=python3 bash scripts/gpu_bench.sh
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/venv.sh
    install_arbench "test"
    PYTHON="$venv/bin/python"
fi
exec "$PYTHON" scripts/gpu_bench.py --spent="$SECONDS" "$@"
