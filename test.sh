#!/usr/bin/env bash
# Run the tests: bash test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")"
source setup.sh
exec "$PYTHON" -m pytest "$@"
