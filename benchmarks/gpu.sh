#!/usr/bin/env bash
# Run all measurements that need one CUDA GPU, with random weights: first the exactness tests in bfloat16, then a training
# step at real sizes (pairs per second, peak memory and model FLOPs utilisation, compared with TRL or a plain loop). The script
# writes one JSON file per shape.
#
#     benchmarks/gpu.sh [folder] [shape ...]
#
# All shapes together need 80 GB of GPU memory and 60 GB of disk in $TMPDIR. Environment variables: PYTHON, STEPS (5),
# WARMUP (2), DISTINCT (32 images in the data), SIDES (all; for example "scramble scramble-features trl"), TEST_SECONDS
# (600; 0 skips the tests), MODELS (a folder that keeps the random weights for another call), SAVE_ONLY (shapes whose
# weights are only created).
set -uo pipefail
out=$(realpath -m "${1:-runs/gpu}")
shift || true
shapes=("$@")
[ $# -gt 0 ] || shapes=(internvl3-1b internvl3-2b internvl3-8b qwen2_5_vl-7b molmo-7b-d)
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
if [ -n "${MODELS:-}" ]; then
    models=$MODELS
else
    models=$(mktemp -d)
    trap 'rm -rf "$models"' EXIT
fi
read -ra sides <<<"${SIDES:-}"
mkdir -p "$out"
nvidia-smi >"$out/nvidia-smi.txt"

# The weights are drawn on the CPU while the tests use the GPU.
for shape in "${shapes[@]}" ${SAVE_ONLY:-}; do
    "$python" benchmarks/preference_step.py --device cuda --shape "$shape" --model "$models/$shape" --steps 0 \
        >"$out/$shape.save.log" 2>&1 &
done
if [ "${TEST_SECONDS:-600}" != 0 ]; then
    timeout "${TEST_SECONDS:-600}" "$python" -m pytest -m cuda tests/trie -n 4 -p no:cacheprovider >"$out/tests.log" 2>&1
    tail -n 3 "$out/tests.log"
fi
wait

declare -A images=([internvl3-1b]=8 [internvl3-2b]=4)
for shape in "${shapes[@]}"; do
    "$python" benchmarks/preference_step.py --device cuda --gradient-checkpointing --feature-cache --dense-mask \
        --one-at-a-time ${sides:+--sides "${sides[@]}"} --shape "$shape" --model "$models/$shape" --images "${images[$shape]:-2}" --captions 1 5 \
        --warmup "${WARMUP:-2}" --steps "${STEPS:-5}" --distinct-images "${DISTINCT:-32}" --json "$out/$shape.json" \
        >"$out/$shape.log" 2>&1 || { echo "$shape failed:"; tail -n 5 "$out/$shape.log"; }
    [ -n "${MODELS:-}" ] || rm -rf "${models:?}/$shape"
done
PYTHONPATH=benchmarks "$python" - "$out" <<'PYTHON'
import json, pathlib, sys

from preference_step import table

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    print(table(json.loads(path.read_text())))
PYTHON
