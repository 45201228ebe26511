#!/usr/bin/env bash
# Data sets of one task as D4RL makes them, from one run of SAC on the true reward, one thread:
#   medium         sampled episodes of the policy when it first returns a third of what D4RL's expert does
#   medium-replay  all that the run had collected until then
#   medium-expert  medium, and as many steps of the policy at the end of the run
#   demos          ten other sampled episodes of that policy, to be shown
# A hopper that learns from nothing is slow (481 after 60 000 steps): PRIOR=FILE, recorded transitions with rewards, which
# the run begins with (3234 after 27 685). Recorded were, seed 0, TRANSITIONS=100000:
#   hopper: PRIOR=hopper-v5-expert.hdf5 MEDIUM=1200 EXPERT=3230 EVERY=2500; halfcheetah: MEDIUM=3200 EXPERT=5550 EVERY=10000
# The same command on the same machine and packages gives the same bytes; OUT/SHA256SUMS tells which they were.
#   bash benchmark/datasets.sh OUT TASK [SEED]           TASK: hopper, halfcheetah, walker2d
#   dataset=OUT/medium, dataset=OUT/medium-replay, dataset=OUT/medium-expert
set -euo pipefail
out=${1:?the folder for the data sets} task=${2:?hopper, halfcheetah or walker2d} seed=${3:-0}
case $task in # the returns of D4RL's experts
  hopper) expert=3234.3 medium=1078 ;;
  halfcheetah) expert=12135.0 medium=4045 ;;
  walker2d) expert=4592.3 medium=1530 ;;
  *) expert=${EXPERT:?the return to stop at, for a task that D4RL has none of} medium=${MEDIUM:?a third of it} ;;
esac
expert=${EXPERT:-$expert} medium=${MEDIUM:-$medium}
steps=${STEPS:-1000000}             # of training, at most
transitions=${TRANSITIONS:-1000000} # of medium, and of expert
every=${EVERY:-5000}                # steps between two looks at the return
prior=()
if [ -n "${PRIOR:-}" ]; then prior=(data.regime=offline_to_online dataset="$PRIOR"); fi
train() {
  python -m agent.train task="$task" obs=state algo=expert size="${SIZE:-small}" seed="$seed" threads=1 device=cpu \
    policy.reward_scale=0.05 policy.polyak=0.02 ${prior[@]+"${prior[@]}"} \
    steps="$steps" eval.every="$every" run="$out/run" "$@"
}
record() { python -m agent.record run="$out/run" device=cpu force=true "$@"; }

if [ ! -f "$out/medium/$task-medium.hdf5" ]; then # otherwise the run has gone on since
  train eval.stop_at="$medium"
  record seed="$seed" source=replay out="$out/medium-replay/$task-medium-replay.hdf5"
  record seed="$seed" sampled=true steps="$transitions" out="$out/medium/$task-medium.hdf5"
fi
train eval.stop_at="$expert"
mkdir -p "$out/medium-expert"
cp "$out/medium/$task-medium.hdf5" "$out/medium-expert/"
record seed="$seed" sampled=true steps="$transitions" out="$out/medium-expert/$task-expert.hdf5"
# demonstrations of the same runner, other episodes
record sampled=true episodes=10 seed=$((seed + 100)) out="$out/demos/$task-end.hdf5"
(cd "$out" && sha256sum medium/*.hdf5 medium-replay/*.hdf5 medium-expert/*.hdf5 demos/*.hdf5 | tee SHA256SUMS)
