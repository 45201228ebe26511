#!/usr/bin/env bash
# A Shadow Hand turns two balls: cloning and CMIL, from state and from pixels, from the twenty shipped demonstrations, one
# thread a run. Results: benchmark/results.   bash benchmark/baoding.sh OUT [SEED ...]
set -euo pipefail
out=${1:?the folder for the runs}
seeds=("${@:2}")
train() { python -m agent.train task=baoding size=small threads=1 n_demos=20 "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000; }

for seed in "${seeds[@]:-0}"; do
  train obs=state algo=bc seed="$seed" steps=10000 eval.every=2500 run="$out/bc-state-s$seed"
  train obs=state algo=cmil seed="$seed" steps=3000 eval.every=1000 run="$out/cmil-state-s$seed"
  train obs=pixels algo=cmil seed="$seed" steps=0 run="$out/cmil-pixels-s$seed" # world model and cloning alone: 3000 updates
  [ -d "$out/bc-pixels-s$seed" ] || cp -r "$out/cmil-pixels-s$seed" "$out/bc-pixels-s$seed"
  train obs=pixels algo=cmil seed="$seed" steps=2400 run="$out/cmil-pixels-s$seed"
  for run in bc-state cmil-state bc-pixels cmil-pixels; do evaluate "$out/$run-s$seed"; done
done
