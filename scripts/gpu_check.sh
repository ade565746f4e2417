#!/bin/sh
# Everything that needs a CUDA device, in at most ten minutes: see scripts/gpu_check.py.
#
#     scripts/gpu_check.sh [FOLDER] [--dry]     (default: gpu-check)
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3).
set -u
root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
exec "$python" "$root/scripts/gpu_check.py" "$@"
