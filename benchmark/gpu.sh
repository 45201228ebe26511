#!/usr/bin/env bash
# Everything to do on a machine with an NVIDIA GPU: check it, time it, train on it in pieces, evaluate, pack the results.
#
#   benchmark/gpu.sh [STAGE ...] [-- KEY=VALUE ...]
#
# Stages, in this order when none is named:
#   check     torch sees CUDA and bf16, EGL draws; prints the hardware
#   test      the tests that need a GPU
#   step      seconds per update of SIZE, plain and with each switch that the configuration offers   -> OUT/step.jsonl
#   render    frames and environment steps a second                                                  -> OUT/render.json
#   train     trains in pieces of PIECE seconds; the same RUN goes on where it stopped, also in a later call
#   evaluate  EPISODES episodes with mode and sampled actions, chosen and last weights  -> RUN/eval-chosen.json, eval.json
#   pack      curves, videos, eval.json and the acting weights, at most LIMIT_MB                     -> OUT/<run>.tar.gz
# KEY=VALUE after -- goes to every training (and, but for run settings, to the timing): for example -- algo=vmail seed=1
#
# Variables, with their defaults:
#   DEVICE=cuda SIZE=base TASK=kitchen      what runs where (DEVICE=cpu SIZE=debug TASK=line: a rehearsal in a minute)
#   RUN=runs/gpu-$TASK-$SIZE OUT=runs/gpu-out    the run folder; where results are collected
#   PIECE=580 PIECES=0                      seconds a piece; pieces in this call at most (0: until the training ends)
#   LIMIT=0                                 seconds that the stages of this call may take together (0: no limit);
#                                           the last piece is shortened, and 150 s are kept for evaluate and pack
#   EPISODES=50 LIMIT_MB=16 UPDATES=20      of evaluate, pack, step
#   PYTHON                                  default .venv/bin/python where it exists, else python3
#
# A machine that is lent for ten minutes at a time:
#   benchmark/gpu.sh check test step        the first call
#   PIECE=560 PIECES=1 benchmark/gpu.sh train   again and again, each goes on with the run
#   benchmark/gpu.sh evaluate pack          the last
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-base} TASK=${TASK:-kitchen}
RUN=${RUN:-runs/gpu-$TASK-$SIZE} OUT=${OUT:-runs/gpu-out}
PIECE=${PIECE:-580} PIECES=${PIECES:-0} LIMIT=${LIMIT:-0}
EPISODES=${EPISODES:-50} LIMIT_MB=${LIMIT_MB:-16} UPDATES=${UPDATES:-20}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
export PYTHONUNBUFFERED=1

stages=() settings=()
while [ $# -gt 0 ]; do
  case $1 in
  --)
    shift
    settings=("$@")
    break
    ;;
  check | test | step | render | train | evaluate | pack) stages+=("$1") ;;
  *)
    echo "gpu.sh: no stage $1 (check test step render train evaluate pack, then -- KEY=VALUE ...)" >&2
    exit 1
    ;;
  esac
  shift
done
[ ${#stages[@]} -gt 0 ] || stages=(check test step render train evaluate pack)
mkdir -p "$OUT"

say() { printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"; }

check() {
  "$PYTHON" - "$DEVICE" <<'PY'
import sys
import torch
device = sys.argv[1]
print("python", sys.version.split()[0], " torch", torch.__version__, " CUDA", torch.version.cuda)
if device.startswith("cuda"):
    if not torch.cuda.is_available():
        sys.exit("gpu.sh: torch sees no CUDA device: is the driver there, and torch a CUDA build (make setup TORCH=...)?")
    name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    print(f"{name}, {memory[0] / 2**30:.0f} of {memory[1] / 2**30:.0f} GiB free")
    if not torch.cuda.is_bf16_supported():
        sys.exit(f"gpu.sh: {name} has no bf16: pass -- data.bf16=false")
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        x @ x
    begin.record()
    for _ in range(20):
        x @ x
    end.record()
    torch.cuda.synchronize()
    print(f"bf16 products: {20 * 2 * 4096**3 / begin.elapsed_time(end) / 1e9:.0f} TFLOP/s")
PY
  "$PYTHON" -c 'from envs.rendering import select_backend; print("pictures are drawn through", select_backend())'
  nproc
}

test_gpu() {
  if ! "$PYTHON" -c 'import pytest' 2>/dev/null; then
    echo "pytest is not installed: tests skipped"
    return 0
  fi
  local code=0
  "$PYTHON" -m pytest -q -m gpu || code=$?
  if [ "$code" = 5 ]; then
    echo "there are no tests for a GPU"
  elif [ "$code" != 0 ]; then
    return "$code"
  fi
}

step() {
  local variant variants=("")
  if [ "$DEVICE" != cpu ]; then
    variants+=("data.bf16=false")
    if grep -q '^graph:' configs/train.yaml; then variants+=("graph=false"); fi
  fi
  for variant in "${variants[@]}"; do
    # shellcheck disable=SC2086  # an empty variant is no argument
    "$PYTHON" -m benchmark.step size="$SIZE" device="$DEVICE" updates="$UPDATES" "${settings[@]}" $variant |
      tee -a "$OUT/step.jsonl"
  done
}

render() { "$PYTHON" -m benchmark.render | tee "$OUT/render.json"; }

newest() { cat "$RUN/checkpoint/latest.json" 2>/dev/null || true; }

train() {
  local count=0 code before seconds
  while true; do
    seconds=$PIECE
    if [ "$LIMIT" -gt 0 ] && [ $((LIMIT - SECONDS - 150)) -lt "$seconds" ]; then
      seconds=$((LIMIT - SECONDS - 150))
    fi
    if [ "$seconds" -lt 30 ]; then
      echo "no time left for another piece: the same call continues this run"
      return 0
    fi
    before=$(newest) code=0
    # INT: the training saves and ends; KILL should it not, 60 s later, and the last minute of work is lost.
    timeout -s INT -k 60 "$seconds" "$PYTHON" -m agent.train task="$TASK" obs=pixels size="$SIZE" device="$DEVICE" \
      run="$RUN" "${settings[@]}" || code=$?
    case $code in
    0)
      echo "the training is complete"
      return 0
      ;;
    124 | 130 | 137) ;; # out of time
    *) return "$code" ;;
    esac
    if [ "$(newest)" = "$before" ]; then
      echo "gpu.sh: $seconds seconds were too short to save anything" >&2
      return 1
    fi
    count=$((count + 1))
    say "piece $count is over"
    if [ "$PIECES" -gt 0 ] && [ "$count" -ge "$PIECES" ]; then
      return 0
    fi
  done
}

evaluate() { # the weights nearest to the demonstrations are what is exported, where some were chosen
  local weights all=(last)
  [ ! -d "$RUN/chosen" ] || all=(chosen last)
  for weights in "${all[@]}"; do
    "$PYTHON" -m agent.evaluate run="$RUN" episodes="$EPISODES" device="$DEVICE" weights="$weights"
  done
}

pack() { "$PYTHON" -m benchmark.pack run="$RUN" out="$OUT" limit_mb="$LIMIT_MB"; }

for stage in "${stages[@]}"; do
  say "$stage"
  case $stage in
  test) test_gpu ;;
  *) "$stage" ;;
  esac
done
say "done"
