#!/usr/bin/env bash
# A reward learned from one data set labels another (thesis, reward transfer): offline ML-IRL on medium-expert, then MOPO on
# medium-replay with that reward, frozen; beside it MOPO with the data set's own rewards. One thread a run.
#   bash benchmark/reward_transfer.sh OUT TASK DATA DEMOS [SEED ...]   DATA: what benchmark/datasets.sh made
set -euo pipefail
out=${1:?the folder for the runs} task=${2:?hopper, halfcheetah or walker2d} data=${3:?the folder of medium-expert and medium-replay}
demos=${4:?demonstrations} seeds=("${@:5}") steps=${STEPS:-20000}
unit=(policy.reward_scale=0.05 policy.polyak=0.02) # as offline ML-IRL has it; without, nothing is learned in so short a run
train() { python -m agent.train task="$task" obs=state size=small threads=1 steps="$steps" eval.every=2500 "$@"; }

for seed in "${seeds[@]:-0}"; do
  train algo=offline_ml_irl demos="$demos" n_demos=1 dataset="$data/medium-expert" seed="$seed" run="$out/learn-s$seed"
  train algo=mopo dataset="$data/medium-replay" "${unit[@]}" reward=frozen reward.path="$out/learn-s$seed" seed="$seed" \
    run="$out/frozen-s$seed"
  train algo=mopo dataset="$data/medium-replay" "${unit[@]}" seed="$seed" run="$out/truth-s$seed"
  for run in learn frozen truth; do python -m agent.evaluate run="$out/$run-s$seed" episodes=20 seed=1000; done
done
