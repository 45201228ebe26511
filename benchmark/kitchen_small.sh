#!/usr/bin/env bash
# The recorded CPU study: CMIL against behaviour cloning for the same processor time, on the shipped demonstrations.
# One thread each, so that two runs share a two-core machine. Results: benchmark/results.   bash benchmark/kitchen_small.sh OUT
set -euo pipefail
out=${1:?the folder for the runs}
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000 "${@:2}"; }

# Both go on from CMIL's own pre-training (world model and cloning): CMIL with thirty episodes and 840 updates, BC with 1760
# updates of cloning alone, which take the same processor time; cloning from stacked frames takes as much for 5300 updates.
for seed in 0 1; do train seed=$seed steps=0 run="$out/cmil-s$seed" & done
wait
for seed in 0 1; do cp -r "$out/cmil-s$seed" "$out/pre-s$seed"; done
for seed in 0 1; do train seed=$seed run="$out/cmil-s$seed" & done
wait
for seed in 0 1; do
  train algo=bc_rssm seed=$seed init="$out/pre-s$seed" steps=1760 eval.every=100000 run="$out/bc_rssm-s$seed" &
done
wait
for seed in 0 1; do train algo=bc_cnn seed=$seed steps=5300 eval.every=1000 run="$out/bc_cnn-s$seed" & done
wait
for run in {cmil,bc_rssm,bc_cnn}-s{0,1}; do evaluate "$out/$run"; done
for run in cmil-s0 cmil-s1; do evaluate "$out/$run" weights=chosen; done
