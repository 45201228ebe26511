#!/usr/bin/env bash
# Offline from state: ML-IRL and CLARE learn from DATASET and N_DEMOS demonstrations, ValueDICE and cloning from the
# demonstrations alone; one thread a run. The x-axis is updates: no environment is stepped but for evaluation.
#   bash benchmark/offline.sh OUT TASK DATASET DEMOS [SEED ...]    TASK: hopper, halfcheetah, walker2d
#   DATASET: what benchmark/datasets.sh made (OUT/medium, ...); DEMOS: a file or folder of demonstrations, for example what
#   benchmark.rollouts records of a published actor; N_DEMOS=1 STEPS=20000 may be set
set -euo pipefail
out=${1:?the folder for the runs} task=${2:?hopper, halfcheetah or walker2d} dataset=${3:?recorded transitions} demos=${4:?demonstrations}
seeds=("${@:5}")
train() { python -m agent.train task="$task" obs=state size=small threads=1 n_demos="${N_DEMOS:-1}" demos="$demos" "$@"; }

steps=${STEPS:-20000}
for seed in "${seeds[@]:-0}"; do
  for algo in offline_ml_irl clare; do
    train algo=$algo dataset="$dataset" seed="$seed" steps="$steps" eval.every=2500 run="$out/$algo-s$seed"
  done
  train algo=value_dice data=demos_state policy.zeta=0 seed="$seed" steps="$steps" eval.every=2500 run="$out/value_dice-s$seed"
  train algo=bc seed="$seed" steps="$steps" eval.every=2500 run="$out/bc-s$seed"
  for algo in offline_ml_irl clare value_dice bc; do
    python -m agent.evaluate run="$out/$algo-s$seed" episodes=20 seed=1000
  done
done
