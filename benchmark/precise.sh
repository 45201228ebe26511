#!/usr/bin/env bash
# Tasks where actions must be precise, from state and the ten shipped demonstrations: cloning, moment matching and HyPER
# that pays for leaving its clone, one thread a run. Results: benchmark/results.
#   bash benchmark/precise.sh OUT [SEED ...]
set -euo pipefail
out=${1:?the folder for the runs}
seeds=("${@:2}")
train() { python -m agent.train obs=state size=small threads=1 n_demos=10 "$@"; }
evaluate() { for run in "$@"; do python -m agent.evaluate run="$run" episodes=50 seed=1000; done; }

for seed in "${seeds[@]:-0}"; do
  maze="$out/antmaze-umaze" kitchen="$out/kitchen" hand="$out/baoding"
  train task=antmaze-umaze algo=bc seed="$seed" steps=8000 eval.every=4000 run="$maze-bc-s$seed"
  train task=antmaze-umaze algo=mm seed="$seed" steps=20000 eval.every=5000 run="$maze-mm-s$seed"
  train task=antmaze-umaze algo=hyper_bc data.updates_per_step=5 seed="$seed" steps=8000 eval.every=2000 run="$maze-hyper-s$seed"
  train task=kitchen algo=cmil seed="$seed" steps=2800 eval.every=1400 run="$kitchen-cmil-s$seed"
  train task=kitchen algo=cmil_recurrent seed="$seed" steps=0 run="$kitchen-recurrent-s$seed" # a clone with a memory
  train task=kitchen algo=hyper_bc data.updates_per_step=5 seed="$seed" steps=5600 eval.every=1400 run="$kitchen-hyper-s$seed"
  train task=baoding algo=bc seed="$seed" steps=10000 eval.every=5000 run="$hand-bc-s$seed"
  train task=baoding algo=hyper_bc data.updates_per_step=5 seed="$seed" steps=3000 eval.every=1000 run="$hand-hyper-s$seed"
  evaluate "$maze"-{bc,mm,hyper}-s"$seed" "$kitchen"-{cmil,recurrent,hyper}-s"$seed" "$hand"-{bc,hyper}-s"$seed"
done
