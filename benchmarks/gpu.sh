#!/usr/bin/env bash
# Everything that needs one CUDA GPU, with random weights: exactness in bfloat16, a training step at real sizes (pairs a
# second, peak memory, utilisation, beside TRL or a plain loop). Results go to a folder, one JSON a run.
#
#     benchmarks/gpu.sh [folder]        80 GB of GPU memory, 100 GB of disk in $TMPDIR, about two hours
set -uo pipefail
out=$(realpath -m "${1:-runs/gpu}")
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
mkdir -p "$out"
nvidia-smi >"$out/nvidia-smi.txt"

"$python" -m pytest -m cuda tests 2>&1 | tee "$out/tests.log"

step() { # shape, images a step, captions an image
    "$python" benchmarks/preference_step.py --device cuda --gradient-checkpointing --feature-cache --one-at-a-time \
        --shape "$1" --images "$2" --captions "$3" --warmup 3 --steps 10 --distinct-images 32 \
        --json "$out/$1-captions$3.json" >"$out/$1-captions$3.log" 2>&1 || echo "$1 with $3 captions failed: see $out"
}
for captions in 1 5; do
    step internvl3-1b 8 "$captions"
    step internvl3-2b 4 "$captions"
    step internvl3-8b 2 "$captions"
    step molmo-7b-d 2 "$captions"
done
"$python" - "$out" <<'PYTHON'
import json, pathlib, sys

for path in sorted(pathlib.Path(sys.argv[1]).glob("*-captions*.json")):
    report = json.loads(path.read_text())
    for name, side in report["result"].items():
        if isinstance(side, dict) and "pairs_per_second" in side:
            print(
                f"{path.stem:24} {name:20} {side['pairs_per_second']:8.2f} pairs/s {side['peak_bytes'] / 1e9:6.1f} GB "
                f"MFU {side.get('utilisation', float('nan')):.3f}"
            )
PYTHON
