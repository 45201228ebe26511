#!/usr/bin/env bash
# Expert resets inside the pixel model: HyPER and CMIL with resets beside CMIL, Kitchen, the same updates and steps.
# All continue from one pre-training per seed, which is CMIL's own.   bash benchmark/pixel_resets.sh OUT [SEED ...]
set -euo pipefail
out=${1:?the folder for the runs}
seeds=("${@:2}")
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 "$@"; }

for seed in "${seeds[@]:-0}"; do
  train seed="$seed" steps=0 run="$out/pre-s$seed" # pre-training alone
  again() { # NAME OVERRIDES...
    train seed="$seed" init="$out/pre-s$seed" data.stages=[] run="$out/$1-s$seed" "${@:2}"
    python -m agent.evaluate run="$out/$1-s$seed" episodes=50 seed=1000
    python -m agent.evaluate run="$out/$1-s$seed" episodes=50 seed=1000 weights=chosen
  }
  again cmil_replay algo=cmil starts=replay
  for algo in cmil_resets hyper hyper_pess; do again $algo algo=$algo; done
done
