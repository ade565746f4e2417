#!/bin/sh
# Everything that needs a CUDA device, in one go of at most ten minutes: the marked tests, then the benchmarks.
#
#     scripts/gpu_check.sh [FOLDER]     (default: gpu-check)
#
# FOLDER gets tests.txt, tests-study.txt, the rows of every benchmark as JSON with their logs, and table.md, which holds all of them.
# PYTHON names the interpreter (default: .venv/bin/python, else python3). A benchmark that overruns keeps the rows
# that it has. The exit code is that of the tests.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-gpu-check}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
mkdir -p "$out"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false

# Whole studies start many processes: beside the other tests, or they alone would take minutes.
timeout 240 "$python" -m pytest -q -n 0 -m cuda tests/cuda/test_study_on_cuda.py >"$out/tests-study.txt" 2>&1 &
study=$!
timeout 240 "$python" -m pytest -q -n "${TEST_PROCESSES:-4}" -m cuda tests/cuda \
    --ignore tests/cuda/test_study_on_cuda.py >"$out/tests.txt" 2>&1
tests=$?
wait $study || tests=1
tail -n 15 "$out/tests.txt" "$out/tests-study.txt"

bench() { # name, seconds, options
    name=$1 seconds=$2
    shift 2
    timeout "$seconds" "$python" "benchmarks/$name.py" --device cuda --json "$out/$name.json" "$@" >"$out/$name.txt" 2>&1
    code=$?
    [ $code -eq 0 ] || echo "$name $*: exit code $code (124: cut after $seconds s)"
}
bench train_speed 150 --quick --only cuda
bench score_speed 90 --quick
bench analyse_speed 60 --quick

"$python" benchmarks/table.py "$out"/*.json >"$out/table.md"
cat "$out/table.md"
exit $tests
