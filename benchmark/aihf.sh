#!/usr/bin/env bash
# AIHF on Hopper from state: one demonstration and 0, 100 or 500 synthetic comparisons (a tenth of them wrong) of segments
# of DATASET, which holds rewards; and 500 comparisons alone. One thread a run; the x-axis is env_steps.
#   bash benchmark/aihf.sh OUT DATASET DEMOS [SEED ...]      DATASET, DEMOS: files or folders of episodes
#   STEPS=30000, PAIRS="0 100 500" and MORE="KEY=VALUE ..." may be set
set -euo pipefail
out=${1:?the folder for the runs} dataset=${2:?recorded transitions with rewards} demos=${3:?demonstrations}
seeds=("${@:4}") steps=${STEPS:-30000}
read -r -a more <<< "${MORE:-}"
train() {
  python -m agent.train task=hopper obs=state size=small threads=1 n_demos=1 steps="$steps" eval.every=$((steps / 6)) \
    "$@" "${more[@]}"
}

mkdir -p "$out"
for seed in "${seeds[@]:-0}"; do
  for pairs in ${PAIRS:-0 100 500}; do
    told=(reward.w_pref=0)
    if ((pairs > 0)); then
      file=$out/told-$pairs-s$seed.npz
      python -m agent.label dataset="$dataset" out="$file" pairs="$pairs" seed="$seed"
      told=(preferences="$file")
    fi
    train algo=aihf demos="$demos" "${told[@]}" seed="$seed" run="$out/aihf-$pairs-s$seed"
    python -m agent.evaluate run="$out/aihf-$pairs-s$seed" episodes=20 seed=1000
  done
  ((pairs > 0)) || continue
  # comparisons alone: the demonstration sets the scale of states and no more
  train algo=rlhf demos="$demos" preferences="$file" seed="$seed" run="$out/rlhf-$pairs-s$seed"
  python -m agent.evaluate run="$out/rlhf-$pairs-s$seed" episodes=20 seed=1000
done
