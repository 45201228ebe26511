#!/usr/bin/env bash
# The recorded CPU study: CMIL against behaviour cloning for the same processor time, on the shipped demonstrations.
# One thread each, so that two runs share a two-core machine. Results: benchmark/results.   bash benchmark/kitchen_small.sh OUT
set -euo pipefail
out=${1:?the folder for the runs}
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000; }

for seed in 0 1; do train seed=$seed eval.every=2800 run="$out/cmil-s$seed" & done
wait
# CMIL's pre-training is bc_rssm's training: 4000 updates take the processor minutes that CMIL takes in all
for seed in 0 1; do train algo=bc_rssm seed=$seed steps=4000 eval.every=100000 run="$out/bc_rssm-s$seed" & done
wait
for run in cmil-s0 cmil-s1 bc_rssm-s0 bc_rssm-s1; do evaluate "$out/$run"; done
