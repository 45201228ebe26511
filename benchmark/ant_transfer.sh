#!/usr/bin/env bash
# Transfer from an ant to one with two disabled legs (thesis, table 2.2), from state, one thread a run: demonstrations of
# the first in the second (data transfer), and rewards learned in the first, frozen, with SAC from scratch in the second
# (reward transfer; IQ-Learn's reward is a difference of its critics' values, which belong to the dynamics, and stays).
#   bash benchmark/ant_transfer.sh OUT [SEED ...]
set -euo pipefail
out=${1:?the folder for the runs}
seeds=("${@:2}")
steps=${STEPS:-250000} # environment steps of each run: 500 episodes, the first 10 of them at random
train() {
  python -m agent.train obs=state size="${SIZE:-small}" threads=1 data.seed_steps=5000 steps="$steps" eval.every=25000 "$@"
}
evaluate() { python -m agent.evaluate run="$1" episodes=20 seed=1000; }

# the expert, and the one trajectory that all learn from; SAC on the true reward in the other ant, to compare with
unit=(policy.reward_scale=0.05 policy.polyak=0.02) # values in a unit of 20 rewards: learned sooner
train task=ant-custom algo=expert steps=150000 "${unit[@]}" run="$out/expert"
python -m agent.record run="$out/expert" out="$out/demos" episodes=1 sampled=true force=true
train task=ant-disabled algo=expert "${unit[@]}" run="$out/truth"
evaluate "$out/expert"
evaluate "$out/truth"

for seed in "${seeds[@]:-0}"; do
  for algo in ml_irl_s f_irl airl iq_learn; do
    # a reward is worth what it is beside the entropy of the policy that it explained
    own=() again=(policy.temperature=0.2)
    if [ $algo = airl ]; then own=(reward.state_only=true) again=(policy.temperature=1.0); fi
    # states as they are: the other ant lies three deviations lower, which alone would tell the two apart
    common=(algo=$algo demos="$out/demos" n_demos=1 seed="$seed" world_model.normalise=false ${own[@]+"${own[@]}"})
    train task=ant-disabled demos_task=ant-custom data.expert_fraction=0 "${common[@]}" run="$out/data-$algo-s$seed"
    evaluate "$out/data-$algo-s$seed"
    if [ $algo = iq_learn ]; then continue; fi
    train task=ant-custom "${common[@]}" run="$out/learn-$algo-s$seed"
    train task=ant-disabled algo=expert reward=frozen reward.path="$out/learn-$algo-s$seed" seed="$seed" \
      "${unit[@]}" "${again[@]}" run="$out/reward-$algo-s$seed"
    evaluate "$out/reward-$algo-s$seed"
  done
done
