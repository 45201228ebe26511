#!/usr/bin/env bash
# Rewards from one trajectory, online: ML-IRL against f-IRL, GAIL, IQ-Learn and cloning, from state, one thread a run.
# The x-axis is env_steps: every training interaction is counted. Results: benchmark/results.
#   bash benchmark/online_irl.sh OUT TASK DEMOS [SEED ...]      TASK: hopper, halfcheetah, walker2d; DEMOS: a file or folder
set -euo pipefail
out=${1:?the folder for the runs} task=${2:?hopper, halfcheetah or walker2d} demos=${3:?demonstrations}
seeds=("${@:4}")
train() { python -m agent.train task="$task" obs=state size=small threads=1 n_demos="${N_DEMOS:-1}" demos="$demos" "$@"; }

steps=${STEPS:-60000}
for seed in "${seeds[@]:-0}"; do
  train algo=bc seed="$seed" steps=20000 eval.every=4000 run="$out/bc-s$seed"
  for algo in ml_irl f_irl gail iq_learn; do
    train algo=$algo seed="$seed" steps="$steps" eval.every=10000 run="$out/$algo-s$seed"
  done
  for algo in bc ml_irl f_irl gail iq_learn; do
    python -m agent.evaluate run="$out/$algo-s$seed" episodes=20 seed=1000
  done
done
