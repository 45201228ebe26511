#!/usr/bin/env bash
# The recorded CPU study: CMIL against behaviour cloning for the same processor time, on the shipped demonstrations.
# One thread each, so that two runs share a two-core machine. Results: benchmark/results.   bash benchmark/kitchen_small.sh OUT
set -euo pipefail
out=${1:?the folder for the runs}
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000; }

train seed=0 steps=5600 run="$out/cmil-s0" &
train seed=1 steps=5600 run="$out/cmil-s1" &
wait
# the same pre-training as CMIL's, then cloning alone for as long as CMIL goes on
train algo=bc_rssm seed=0 steps=5600 eval.every=100000 run="$out/bc_rssm-s0" &
train algo=bc_cnn seed=0 steps=7000 eval.every=100000 run="$out/bc_cnn-s0" &
wait
for run in cmil-s0 cmil-s1 bc_rssm-s0 bc_cnn-s0; do evaluate "$out/$run"; done
