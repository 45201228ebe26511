#!/usr/bin/env bash
# Pessimism against expert resets (the open question of the HyPER paper): 2 x 2 on Hopper from state, one thread a run.
#   bash benchmark/pess_resets.sh OUT DEMOS [SEED ...]   DEMOS: shipped, or a file or folder of demonstrations
set -euo pipefail
out=${1:?the folder for the runs} demos=${2:-shipped}
seeds=("${@:3}")
train() { python -m agent.train task=hopper obs=state size=small threads=1 n_demos=5 steps=10000 eval.every=2000 demos="$demos" "$@"; }

for seed in "${seeds[@]:-0}"; do
  for alpha in 0.0 1.0; do
    for p in 0.0 0.5; do
      run="$out/alpha$alpha-p$p-s$seed"
      train algo=hyper_pess penalty.alpha=$alpha starts.p=$p seed="$seed" run="$run"
      python -m agent.evaluate run="$run" episodes=20 seed=1000
    done
  done
done
