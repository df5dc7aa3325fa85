#!/usr/bin/env bash
# Install arbench into a virtual environment and compare the methods on handwritten digits.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh
install_arbench
say "arbench run --method all: each method at several speeds, sampled and scored (a few minutes)"
"$venv/bin/arbench" run --method all "$@"
