#!/usr/bin/env bash
# Everything that only a GPU can show: its tests, then the speed of the full-size models. --quick: a few of them.
# Another Python than the checkout's own: PYTHON=python3 bash scripts/gpu_bench.sh
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/venv.sh
    install_arbench "test"
    PYTHON="$venv/bin/python"
fi
"$PYTHON" -m pytest -m gpu -p no:cacheprovider tests -s || echo "gpu tests failed: the speeds below stand all the same"
"$PYTHON" scripts/gpu_bench.py "$@"
