#!/usr/bin/env bash
# What the second core is worth to state training at size=small: whole training loops of METHODS on Hopper, with one thread,
# with two, and two runs with one thread each side by side. Prints updates and environment steps (but for those that only
# seed) a second, and how much of the time the learner's processor was busy. On an idle machine.   bash benchmark/cores.sh OUT DEMOS
set -euo pipefail
out=${1:?the folder for the runs} demos=${2:-shipped}
train() { # ALGO STEPS THREADS NAME
  python -m agent.train task=hopper obs=state size=small algo="$1" n_demos=5 demos="$demos" steps="$2" threads="$3" \
    eval.at_start=false eval.every=1000000 run="$out/$1-$4" > /dev/null
}
for method in ${METHODS:-mm:4000 hyper:1400}; do
  algo=${method%:*} steps=${method#*:}
  train "$algo" "$steps" 1 one-thread
  train "$algo" "$steps" 2 two-threads
  train "$algo" "$steps" 1 beside-a & first=$!
  train "$algo" "$steps" 1 beside-b & second=$!
  wait "$first" && wait "$second"
done
python - "$out" <<'PY'
import json, sys
from pathlib import Path

print(f"{'run':24}{'updates/s':>10}{'env steps/s':>12}{'processors':>11}")
for file in sorted(Path(sys.argv[1]).glob("*/metrics.jsonl")):
    row = {}
    for line in file.read_text().splitlines():
        row |= json.loads(line)
    seconds = 60 * row["minutes"]
    print(f"{file.parent.name:24}{row['updates'] / seconds:10.1f}{row['env_steps/policy'] / seconds:12.1f}{row['cpu_minutes'] / row['minutes']:11.2f}")
PY
