#!/usr/bin/env bash
# Measures on a GPU what was not measured without one, in about ten minutes and without a network; see benchmarks/gpu.py.
#
#     benchmarks/gpu.sh --out gpu.json              # on a machine with a GPU
#     benchmarks/gpu.sh --dry --out gpu.json        # a tiny model on the CPU: does it run?
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python
[ -x .venv/bin/python ] && python=.venv/bin/python
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}" HF_HUB_OFFLINE=1
exec "${PYTHON:-$python}" -m benchmarks.gpu "$@"
