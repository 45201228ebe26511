#!/usr/bin/env bash
# HyPER, HyPE, moment matching and cloning on Hopper (or TASK=walker2d, halfcheetah) from state, from the same five
# demonstrations, one thread a run. The x-axis is env_steps: every training interaction is counted. Results: benchmark/results.
#   bash benchmark/locomotion.sh OUT DEMOS [SEED ...]        DEMOS: shipped, or a file or folder of demonstrations
set -euo pipefail
out=${1:?the folder for the runs} demos=${2:-shipped}
seeds=("${@:3}")
train() { python -m agent.train task="${TASK:-hopper}" obs=state size=small threads=1 n_demos=5 demos="$demos" "$@"; }

for seed in "${seeds[@]:-0}"; do
  train algo=bc seed="$seed" steps=20000 eval.every=5000 run="$out/bc-s$seed"
  train algo=hyper seed="$seed" steps=20000 eval.every=2000 run="$out/hyper-s$seed"
  for algo in hype mm; do
    train algo=$algo seed="$seed" steps=42000 eval.every=6000 run="$out/$algo-s$seed"
  done
  for run in bc hyper hype mm; do python -m agent.evaluate run="$out/$run-s$seed" episodes=20 seed=1000; done
done
