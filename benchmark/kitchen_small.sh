#!/usr/bin/env bash
# The recorded CPU study: CMIL against behaviour cloning for the same processor time, on the shipped demonstrations.
# One thread each, so that two runs share a two-core machine. Results: benchmark/results.   bash benchmark/kitchen_small.sh OUT
# The same command again goes on where it was stopped.
set -euo pipefail
out=${1:?the folder for the runs}
train() { python -m agent.train task=kitchen obs=pixels size=small threads=1 "$@"; }
evaluate() { python -m agent.evaluate run="$1" episodes=50 seed=1000 "${@:2}"; }
both() { # a step for seeds 0 and 1 side by side; where one fails, the study ends
  "$1" 0 & local first=$!
  "$1" 1 & local second=$!
  wait "$first" && wait "$second"
}

# Both go on from CMIL's own pre-training (world model and cloning): CMIL with thirty episodes and 840 updates, BC with 1760
# updates of cloning alone, which take the same processor time; cloning from stacked frames takes as much for 5300 updates.
pretrain() { [ -d "$out/cmil-s$1" ] || train seed="$1" steps=0 run="$out/pre-s$1"; }
cmil() { [ -d "$out/cmil-s$1" ] || cp -r "$out/pre-s$1" "$out/cmil-s$1"; train seed="$1" run="$out/cmil-s$1"; }
bc_rssm() { train algo=bc_rssm seed="$1" init="$out/pre-s$1" steps=1760 eval.every=100000 run="$out/bc_rssm-s$1"; }
bc_cnn() { train algo=bc_cnn seed="$1" steps=5300 eval.every=1000 run="$out/bc_cnn-s$1"; }
for step in pretrain cmil bc_rssm bc_cnn; do both $step; done

for run in {cmil,bc_rssm,bc_cnn}-s{0,1}; do evaluate "$out/$run"; done
for run in cmil-s0 cmil-s1; do evaluate "$out/$run" weights=chosen; done
