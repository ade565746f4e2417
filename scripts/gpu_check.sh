#!/bin/sh
# Everything that needs a CUDA device, in one go of at most ten minutes: the marked tests, then the benchmarks.
#
#     scripts/gpu_check.sh [FOLDER]     (default: gpu-check)
#
# FOLDER gets tests.txt, the rows of every benchmark as JSON with their logs, and table.md, which holds all of them.
# PYTHON names the interpreter (default: .venv/bin/python, else python3). A benchmark that overruns keeps the rows
# that it has. The exit code is that of the tests.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-gpu-check}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
mkdir -p "$out"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false

timeout 210 "$python" -m pytest -q -n "${TEST_PROCESSES:-4}" -m cuda tests/cuda >"$out/tests.txt" 2>&1
tests=$?
tail -n 25 "$out/tests.txt"

bench() { # name, seconds, options
    name=$1 seconds=$2
    shift 2
    timeout "$seconds" "$python" "benchmarks/$name.py" --device cuda --json "$out/$name-$#.json" "$@" >"$out/$name-$#.txt" 2>&1
    code=$?
    [ $code -eq 0 ] || echo "$name $*: exit code $code (124: cut after $seconds s)"
}
bench train_speed 110 --only cuda
bench score_speed 100 --quick
bench analyse_speed 70
bench train_speed 60 --quick --only growth

"$python" benchmarks/table.py "$out"/*.json >"$out/table.md"
cat "$out/table.md"
exit $tests
