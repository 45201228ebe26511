"""What training shows of itself: evaluation episodes, CMIL's Theorem-2 diagnostics, videos. Nothing here feeds
learning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agent import video
from agent.batch import join, to_device, transitions
from agent.collect import Interrupted, Trace, run_episodes
from agent.data import Which
from agent.given import simulated
from agent.imagine import imagine, stepped
from agent.score import summarise

if TYPE_CHECKING:
    from agent.trainer import Trainer

EVAL_SEEDS = 1 << 30  # training seeds lie below
CONTEXT = 5  # rows that open-loop predictions may look at


def evaluate(trainer: Trainer) -> dict[str, float] | None:
    """Score of mode and sampled actions, diagnostics, videos; None when the user interrupts."""
    settings, envs, agent = trainer.config["eval"], trainer.envs, trainer.agent
    found: dict[str, float] = {}
    shown: Trace | None = None
    for name, mode in (("mode", True), ("sampled", False)):
        first = EVAL_SEEDS + settings["seed"]
        seeds = range(first, first + envs.different(settings["episodes"]))
        try:
            traces = run_episodes(agent, envs, list(seeds), mode=mode, should_stop=lambda: trainer.stop)
        except Interrupted:
            return None
        found |= _flat(summarise(traces, envs.subtasks), name)
        shown = shown or traces[0]
    if trainer.demos:
        expert_score = float(np.mean([d.meta.get("score", envs.full_score) for d in trainer.demos]))
        if np.isfinite(expert_score):
            found["diag/return_gap"] = expert_score - found["eval/score_mode"]
    found |= diagnose(trainer)
    if settings["videos"] and shown is not None and trainer.config["obs"]["name"] == "pixels":
        _videos(trainer, shown)
    return found


def scored(trainer: Trainer) -> str | None:
    """The newest score of the mode, of what an expert has where that is known; None before the first."""
    if "mode" not in trainer.scores:
        return None
    full = trainer.envs.full_score
    return f"{trainer.scores['mode']:.2f}" + (f" of {full:g}" if np.isfinite(full) else "")


def _flat(summary: dict[str, Any], name: str) -> dict[str, float]:
    out = {}
    for key in ("score", "success"):
        out[f"eval/{key}_{name}"], out[f"eval/{key}_{name}_low"], out[f"eval/{key}_{name}_high"] = summary[key]
    for task, (rate, _, _) in summary["tasks"].items():
        out[f"eval/{task.replace(' ', '_')}_{name}"] = rate
    for measure, (mean, _, _) in summary["measures"].items():
        out[f"eval/{measure}_{name}"] = mean
    return out


def official_steps(trainer: Trainer) -> float:
    """Environment steps as the code behind published curves counts them (algorithms 1.3): without those for the reward
    alone, with what ``official_counts`` names.
    """
    counters = trainer.counters
    more = {
        "demos": float(sum(d.steps for d in trainer.demos)),
        "clone": sum(counters[f"stage{n}"] for n, s in enumerate(trainer.data["stages"]) if "clone" in s["parts"]),
    }
    counted = sum(more[name] for name in trainer.config["official_counts"])
    return counters["env_steps"] - counters["env_steps/reward"] + counted


def diagnose(trainer: Trainer) -> dict[str, float]:
    """CMIL Theorem 2 (paper's Fig. 3): noise-free discriminator gap on real pairs, disagreement in the model and on
    data. Looking does not change the training's random numbers.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return _theorem2(trainer)


def _theorem2(trainer: Trainer) -> dict[str, float]:
    agent, replay, data = trainer.agent, trainer.replay, trainer.data
    if agent.reward is None or agent.reward.needs_truth or not replay.ids("online") or not replay.ids("expert"):
        return {}
    rng = np.random.default_rng(0)
    size = min(8, len(replay.ids("online")))
    own = to_device(replay.sample(8, data["length"], rng, which="online", last=size), data["burn_in"], agent.device)
    demo = to_device(replay.sample(8, data["length"], rng, which="expert"), data["burn_in"], agent.device)
    out: dict[str, float] = {}
    for name, chunk in (("policy", own), ("expert", demo)):
        z = agent.world.observe(chunk)
        pairs = transitions(z, chunk)
        kept = pairs.weight > 0  # the others have too little history, or cross from one episode to the next
        out[f"diag/d_{name}"] = float(agent.reward.score(agent.reward_inputs(pairs))[kept].mean())
        if agent.penalty.u is not None and agent.world.can_imagine:
            start = z[:, :-1].flatten()[kept]
            _, u = stepped(agent.world, start, pairs.action[kept], agent.penalty)
            out["diag/u_data" if name == "policy" else "diag/u_expert"] = float(u.mean())
            if name == "policy":
                rollout = imagine(
                    agent.world,
                    agent.policy.actor,
                    start[:: max(1, len(start.deter) // 64)],
                    max(1, agent.options.horizon),
                    agent.penalty,
                )
                out["diag/u_model"] = float(rollout.u.mean())
    out["diag/disc_gap"] = out["diag/d_expert"] - out["diag/d_policy"]
    return out


def _videos(trainer: Trainer, trace: Trace) -> None:
    if hasattr(trainer.agent.world, "open_loop"):
        _open_loop(trainer)
    if not simulated(trainer.config):  # recorded pictures: what the policy would have led to, nobody sees
        return
    demo = trainer.demos[0].obs["image"]
    own = np.stack(trace.obs)
    length = max(len(demo), len(own))
    clips = [np.concatenate([c, np.repeat(c[-1:], length - len(c), 0)]) for c in (demo, own)]
    frames = video.side_by_side([video.upscale(c, 3) for c in clips], ["demonstration", f"policy {trace.score:g}"])
    trainer.logger.video("policy", trainer.step, frames[::2], fps=20)


@torch.no_grad()
def _open_loop(trainer: Trainer) -> None:
    data = trainer.data
    rng = np.random.default_rng(1)
    kinds: list[Which] = ["expert", "online" if trainer.replay.ids("online") else "expert"]
    parts = [
        to_device(trainer.replay.sample(3, data["length"], rng, which=kind), 0, trainer.agent.device) for kind in kinds
    ]
    chunk = join(*parts)
    world: Any = trainer.agent.world
    model = world.open_loop(chunk, min(CONTEXT, data["length"] - 1)).cpu().numpy()
    truth = chunk.obs.cpu().numpy()
    predicted = (model * 255).round().astype(np.uint8)
    frames = video.open_loop(truth, predicted, context=CONTEXT, scale=2)
    trainer.logger.video("open_loop", trainer.step, frames, fps=10)
