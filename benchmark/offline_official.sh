#!/usr/bin/env bash
# Offline ML-IRL as its code runs, one data set of its table: members, horizon, weight and kind of the penalty, share of
# held-out rows (algorithms 3.10). A GPU's work: 1000 epochs of 50 000 rollouts and 1000 updates, 10 GB of memory.
#   bash benchmark/offline_official.sh OUT ROW DATASET DEMOS [KEY=VALUE ...]      ROW: hopper-medium, ..., as below
set -euo pipefail
out=${1:?the folder for the run} row=${2:?a row of the table} dataset=${3:?recorded transitions} demos=${4:?demonstrations}

#                              N   h  alpha  penalty        holdout
table="
halfcheetah-medium              7   6   5.92  ens_var_drawn  0.2
halfcheetah-medium-replay      11  37   0.96  ens_var_drawn  0.2
halfcheetah-medium-expert       7   5   4.56  max_aleatoric  0.05
hopper-medium                   7  43  37.28  ens_std_drawn  0.2
hopper-medium-replay            7  43   5.90  max_aleatoric  0.2
hopper-medium-expert           12  43   5.90  max_aleatoric  0.2
walker2d-medium                 8  37   0.99  ens_std_drawn  0.2
walker2d-medium-replay         13  37   0.99  ens_std_drawn  0.2
walker2d-medium-expert         12  37   0.99  ens_std_drawn  0.2
"
read -r _ members horizon alpha penalty holdout < <(grep "^$row " <<<"$table") || {
  echo "no row $row: $(awk '{print $1}' <<<"$table" | xargs)" >&2
  exit 1
}
task=${row%%-*}
steps=1000000
[ "$task" = walker2d ] && steps=2000000

python -m agent.train algo=offline_ml_irl_official obs=state task="$task" dataset="$dataset" demos="$demos" \
  size=base steps="$steps" eval.every=1000 world_model.members="$members" world_model.holdout="$holdout" \
  data.rollout_horizon="[$horizon,$horizon,0,1]" data.memory="$((5 * 50000 * horizon))" \
  penalty="$penalty" penalty.alpha="$alpha" run="$out" "${@:5}"
