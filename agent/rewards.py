"""``python -m agent.rewards run=DIR [dataset=PATH]``: what a run has learned to reward, as files, numbers and pictures.

    OUT/reward.json, reward.safetensors    the reward itself (`agent.artefact`), for ``reward=frozen reward.path=OUT``
    OUT/eval.json                          rank and linear correlation with the rewards that the data set holds
    OUT/along.png                          the reward along one episode, with its frames where the set has pictures,
                                           those of one camera
    OUT/against_truth.png                  learned against true reward, every transition a point

Looking alone: true rewards are read from the data set, and nothing learns from them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.finished import command, open_run, rebuild
from demos import dataset
from demos.errors import DemoError
from envs.episode import Episode

if TYPE_CHECKING:
    from agent.agent import Agent

USAGE = "python -m agent.rewards run=DIR [out=RUN/reward] [dataset=PATH] [limit=none] [episode=0] [device=auto]"
POINTS = 5000  # of the scatter plot
FRAMES = 8  # of the strip above the curve


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    out         the folder to write; none: RUN/reward
    dataset     episodes to look at; none: the run's demonstrations
    limit       at most so many of them
    episode     the one that along.png shows, counted from 0
    device      auto, cpu, cuda, cuda:N
    """

    run: Path
    out: Path | None = None
    dataset: Path | None = None
    limit: int | None = None
    episode: int = 0
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Look at one run's reward. Returns the exit code: 0 done, 1 a problem told in one line, 130 interrupted."""
    return command("agent.rewards", USAGE, look, Options, argv)


def look(options: Options) -> dict[str, Any]:
    """Write the files that the top of this module names; returns what eval.json holds.

    Raises:
        ConfigError, CheckpointError: no run, no checkpoint, a run without a learned reward. DemoError: of the data set.
    """
    from agent.artefact import describe
    from agent.build import ConfigError, pick_device

    config, state = open_run(options.run)
    out, key = options.out or options.run / "reward", config["obs"]["key"]
    named, told = _episodes(options, config)
    episodes = [episode for _, episode in named]
    if not 0 <= options.episode < len(episodes):
        raise ConfigError(f"episode={options.episode}: there are {len(episodes)}, counted from 0")
    device, first = pick_device(options.device), episodes[0]
    agent = rebuild(options.run, config, state, first.action.shape[1], first.obs[key].shape[1:], device)
    if agent.reward is None or agent.reward.needs_truth:
        raise ConfigError(f"{options.run}: this run has learned no reward")
    learned = [along(agent, episode, key) for episode in episodes]
    out.mkdir(parents=True, exist_ok=True)
    try:
        describe(options.run, config, state).save(out)
        print(f"{out}: reward.json, reward.safetensors")
    except ConfigError as error:  # a reward of pixels can be looked at, but not taken elsewhere
        print(f"not exported: {error}", file=sys.stderr)
    report: dict[str, Any] = {"run": options.run.name, "step": int(state["step"]), "episodes": len(episodes)}
    report |= _report(episodes, learned, told)
    dataset.write_atomic(out / "eval.json", json.dumps(report, indent=1).encode())
    _draw_along(out / "along.png", _seen(named, options.episode), learned[options.episode], told)
    if told:
        _draw_against_truth(out / "against_truth.png", episodes, learned, report["spearman"])
    else:
        (out / "against_truth.png").unlink(missing_ok=True)  # of other episodes
        print("the episodes hold no true rewards: nothing to compare with", file=sys.stderr)
    told_of = "learned reward: " if told else "learned reward, of every transition: "
    print(told_of + "  ".join(f"{name} {value:.4g}" for name, value in report.items() if isinstance(value, float)))
    return report


def _episodes(options: Options, config: dict[str, Any]) -> tuple[list[tuple[Path, Episode]], bool]:
    """The episodes to look at, each with its file and what the run observes, and whether they come with true rewards.

    Raises ConfigError where there are none.
    """
    from agent.build import ConfigError
    from agent.given import named

    task, name = config["task"]["name"], config["demos"]
    if options.dataset is None:
        task = config.get("demos_task", task)  # runs of earlier versions tell none
        if name == "none":
            raise ConfigError(f"{options.run}: learned from no demonstrations: dataset=PATH names episodes to look at")
    path = options.dataset or (dataset.shipped(task) if name == "shipped" else Path(name))
    limit = options.limit if options.dataset is not None else options.limit or config["n_demos"]
    key = config["obs"]["key"]
    given: dict[str, Any] = {"task": named(config, task), "limit": limit, "obs_keys": (key,)}
    try:
        found, told = list(dataset.stream(path, rewards=True, **given)), True
    except DemoError as error:
        if error.key != "reward":
            raise
        found, told = list(dataset.stream(path, **given)), False
    for file, episode in found:
        dataset.fits(file, episode.meta, ("action", key), config["task"]["options"])
    return found, told


def _seen(found: Sequence[tuple[Path, Episode]], number: int) -> Episode:
    """One of the episodes with its pictures, where its file has some, of one camera."""
    path, episode = found[number]
    before = sum(file == path for file, _ in found[:number])
    try:
        for _, seen in dataset.stream(path, limit=before + 1, obs_keys=("image",)):
            obs = seen.obs
    except DemoError:
        return episode
    return dataclasses.replace(episode, obs=episode.obs | obs)


def along(agent: Agent, episode: Episode, key: str) -> np.ndarray:
    """The reward of every pair of an episode: (n,)."""
    import torch

    from agent.batch import transitions
    from models.world_model import Chunk

    rows = [episode.obs[key], episode.action, episode.is_first, episode.is_last, episode.is_terminal]
    obs, action, first, last, terminal = (torch.from_numpy(x)[None].to(agent.device) for x in rows)
    chunk = Chunk(obs, action, first, last, terminal, torch.ones_like(first[:, 0]), torch.ones_like(first))
    with torch.no_grad():
        pairs = transitions(agent.world.observe(chunk), chunk)
        return agent.reward.reward(agent.reward_inputs(pairs)).cpu().numpy().astype(np.float64)


def _report(episodes: Sequence[Episode], learned: Sequence[np.ndarray], told: bool) -> dict[str, Any]:
    flat = np.concatenate(learned)
    found: dict[str, Any] = {"transitions": len(flat), "mean": float(flat.mean()), "std": float(flat.std())}
    if told:
        truth = np.concatenate([e.reward[1:] for e in episodes])
        found |= {"spearman": rank_correlation(flat, truth), "pearson": correlation(flat, truth)}
        if len(episodes) > 2:
            returns = np.array([e.reward[1:].sum() for e in episodes])
            found["spearman_returns"] = rank_correlation(np.array([r.sum() for r in learned]), returns)
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's of (n,) and (n,); 0 where one of them is constant."""
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean() for x in (a, b))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: Pearson's of the ranks, equal values sharing the mean of theirs."""
    return correlation(_ranks(a), _ranks(b))


def _ranks(x: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _draw_along(path: Path, episode: Episode, learned: np.ndarray, told: bool) -> None:
    """Reward over time, below it the true one, above it frames."""
    from matplotlib.figure import Figure

    frames = episode.obs.get("image")
    figure = Figure(figsize=(10, 4 if frames is None else 5.5), layout="constrained")
    if frames is None:
        axis = figure.subplots()
    else:
        strip, axis = figure.subplots(2, 1, height_ratios=[1, 2.5])
        at = np.linspace(0, len(learned) - 1, FRAMES).round().astype(int)
        strip.imshow(np.concatenate(list(frames[at]), axis=1), aspect="auto")
        strip.axis("off")
        for t in at:
            axis.axvline(t, color="0.85", zorder=0)
    axis.plot(learned, color="C0", label="learned")
    axis.set_xlabel("step")
    axis.set_ylabel("learned reward", color="C0")
    if told:
        true = axis.twinx()
        true.plot(episode.reward[1:], color="C1", alpha=0.7)
        true.set_ylabel("true reward", color="C1")
    axis.set_title(f"episode {episode.meta.get('episode', episode.meta.get('seed', ''))} of {episode.meta.get('task')}")
    figure.savefig(path, dpi=120)


def _draw_against_truth(
    path: Path, episodes: Sequence[Episode], learned: Sequence[np.ndarray], spearman: float
) -> None:
    from matplotlib.figure import Figure

    x, y = np.concatenate([e.reward[1:] for e in episodes]), np.concatenate(learned)
    shown = np.random.default_rng(0).permutation(len(x))[:POINTS]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    axis.scatter(x[shown], y[shown], s=4, alpha=0.4)
    axis.set_xlabel("true reward")
    axis.set_ylabel("learned reward")
    axis.set_title(f"rank correlation {spearman:.2f}, {len(x)} transitions")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
