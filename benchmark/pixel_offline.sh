#!/usr/bin/env bash
# Kitchen from pictures without a step of the environment: cloning shipped demonstrations against offline ML-IRL on them and
# forty episodes of play that are made here; half an hour of processor time each, one thread.
#   bash benchmark/pixel_offline.sh OUT [SEED]      N_DEMOS=10 may be set: with 3, there is something left to be learned
set -euo pipefail
out=${1:?the folder for the play set and the runs} seed=${2:-0}
export OMP_NUM_THREADS=1
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 seed="$seed" n_demos="${N_DEMOS:-10}" eval.every=1000 "$@"; }
offline() { train algo=offline_ml_irl dataset="$out/play" "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000; }

python -m demos.experts.kitchen_play out="$out/play" episodes=40 seed=0 # goes on where it was stopped
# the demonstrations alone: 5000 updates of model and clone
train algo=bc_rssm steps=5000 run="$out/bc-s$seed"
# model and clone on both (3000 updates), then 2000 of policy and reward in the model that stays as it is ...
offline steps=0 run="$out/fit-s$seed"
[ -d "$out/offline-s$seed" ] || cp -r "$out/fit-s$seed" "$out/offline-s$seed"
offline run="$out/offline-s$seed"
# ... and what these add to as many updates of cloning alone
offline init="$out/fit-s$seed" data.stages=[] policy.rl_scale=0 run="$out/control-s$seed"
for run in bc fit offline control; do evaluate "$out/$run-s$seed"; done
