"""``python -m agent.evaluate run=DIR episodes=50 seed=1000``: how often a trained policy succeeds, with 95 % intervals.

Episodes run in parallel processes, once with the policy's most likely actions ("mode") and once with sampled ones, on
seeds that neither training nor its monitoring uses. Environment processes import this module, so torch stays inside
functions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from agent.finished import command, open_envs, open_run, restore, robot_of
from demos.dataset import write_atomic
from envs.errors import EnvError

if TYPE_CHECKING:
    from agent.agent import Agent
    from agent.collect import Trace

SIZE = 256  # of a video, pixels
FRAMES = 200  # of a video that is drawn for it, at most
USAGE = (
    "python -m agent.evaluate run=DIR [episodes=50] [seed=1000] [envs=one a core] [videos=true] "
    "[mode=both|mode|sampled] [weights=last|best|chosen] [recordings=PATH] [device=auto]"
)
REPORT = {"last": "eval.json", "best": "eval-best.json", "chosen": "eval-chosen.json"}
KINDS = {"both": (("mode", True), ("sampled", False)), "mode": (("mode", True),), "sampled": (("sampled", False),)}
SUCCESS = {
    "kitchen": "a sub-task is done once its joints are within 0.3 (Euclidean distance) of their goal, and stays done "
    "for the rest of the episode; success: all of the sub-tasks are done",
    "line": "score: share of the steps that end within 0.1 of the goal; success: the last one does",
    "own": "recorded observations are played, each once, whatever the actions; error: mean distance of an action's "
    "numbers from the recorded ones; score: 1 - error / 2",
    "gym": "success as the environment tells it in its info (success or is_success); score: undiscounted return",
    "count": "score: share of the steps with the right action; success: all of them",
    **dict.fromkeys(
        ("hopper", "halfcheetah", "walker2d", "ant", "humanoid"),
        "score: undiscounted return of the environment; success: the time limit is reached without a fall",
    ),
    **dict.fromkeys(
        ("ant-custom", "ant-disabled"),
        "score: undiscounted return of the environment; there is no threshold of success",
    ),
    "baoding": "no ball falls, and both are within 2 cm of their targets in at least 90 % of the steps from the 10th "
    "on; score: the share of these steps; error: a ball's mean distance to its target (cm); kept: steps without a fall",
    **dict.fromkeys(("antmaze-umaze", "antmaze-medium", "antmaze-large"), "the goal is reached"),
    "dmc": "score: undiscounted return of the environment, at most 1000; there is no threshold of success",
}
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    episodes    how many, of each kind of actions
    seed        episode i runs with EVAL_SEEDS + seed + i, which training never saw
    envs        environment processes; 0: one a core
    videos      best and worst episode; from state they are played again, to be drawn
    mode        mode (the policy's most likely actions), sampled, or both
    weights     last: the newest; best: those that scored best when the run was monitored; chosen: those whose own
                episodes came nearest to the demonstrations, without a score (`agent.kept`)
    recordings  of task=own: where they lie now
    device      auto, cpu, cuda, cuda:N
    """

    run: Path
    episodes: int = 50
    seed: int = 1000
    envs: int = 0
    videos: bool = True
    mode: str = "both"
    weights: str = "last"
    recordings: Path | None = None
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate one run. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    return command("agent.evaluate", USAGE, evaluate, Options, argv)


def evaluate(options: Options, stream: TextIO | None = None) -> dict[str, Any]:
    """Run the episodes, print the table, write RUN/eval.json (or eval-best.json, eval-chosen.json), videos; returns it.

    Raises:
        ConfigError, CheckpointError: no run, no checkpoint, or a seed range that training was monitored with.
        EnvError: the task cannot run here. DemoError: the results cannot be written.
    """
    import torch

    from agent.build import ConfigError, pick_device
    from agent.config import set_threads
    from agent.given import simulated
    from agent.monitor import EVAL_SEEDS
    from agent.train import versions
    from demos.recorded_env import other_robot

    stream = stream or sys.stdout
    if options.mode not in KINDS:
        raise ConfigError(f"mode={options.mode}: expected one of {', '.join(KINDS)}")
    if options.episodes < 1 or options.seed < 0 or options.envs < 0:
        raise ConfigError("episodes must be at least 1, seed and envs at least 0")
    config, state = open_run(options.run, options.weights)
    if options.recordings is not None:
        if simulated(config):
            raise ConfigError(
                f"recordings={options.recordings}: task={config['task']['name']} has a simulator to play in"
            )
        differs = other_robot(options.recordings, robot_of(options.run) or {}, config["obs"]["key"])
        if differs is not None:
            raise ConfigError(f"recordings={options.recordings}: are not of the robot of {options.run}: {differs}")
        config["task"]["options"]["recordings"] = str(options.recordings)
    _refuse_monitoring_seeds(options, config["eval"])
    set_threads(config["threads"])
    device = pick_device(options.device)
    task, obs = config["task"], config["obs"]
    first = EVAL_SEEDS + options.seed
    if not os.access(options.run, os.W_OK):
        raise ConfigError(f"{options.run}: cannot be written to, and {REPORT[options.weights]} belongs there")
    started = time.monotonic()
    with open_envs(config, _processes(options)) as envs:
        episodes = envs.different(options.episodes)
        seeds = list(range(first, first + episodes))
        agent = restore(options.run, config, state, envs, device)
        progress = _Progress(len(KINDS[options.mode]) * _rounds(episodes, len(envs)) * envs.horizon, stream)
        results: dict[str, dict[str, Any]] = {}
        ends: tuple[Trace, Trace] | None = None
        for name, mode in KINDS[options.mode]:
            torch.manual_seed(options.seed)  # the sampled numbers do not depend on whether mode ran before them
            traces, found = _episodes(agent, envs, seeds, mode, progress)
            results[name] = _summary(traces, envs.subtasks)
            ends = ends or found
        progress.close()
        subtasks, count, note = envs.subtasks, len(envs), envs.note
        clips: list[np.ndarray] = []
        if options.videos and ends is not None and (obs["name"] == "pixels" or simulated(config)):
            try:
                clips = [_frames(envs, trace, obs["name"]) for trace in ends]
            except EnvError as error:  # the figures do not need them
                note = "; ".join([*([note] if note else []), f"no videos: {error}"])
    if options.weights == "best" and not simulated(config):
        note = "; ".join([*([note] if note else []), "these weights were chosen by their scores on them"])
    report: dict[str, Any] = {
        "config": "-".join(config[k]["name"] for k in ("task", "obs", "algo", "size")) + f"-seed{config['seed']}",
        "checkpoint": {"weights": options.weights, "step": state["step"], "updates": int(state["counters"]["updates"])},
        "subtasks": list(subtasks),
        "success_definition": SUCCESS.get(task["name"])
        or SUCCESS.get(task["name"].split("-")[0], "as the environment reports it: all sub-tasks done"),
        "note": note,
        "episodes": episodes,
        "seeds": {"seed": options.seed, "first": seeds[0], "last": seeds[-1]},
        "envs": count,
        "results": results,
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(device),
    }
    _print(report, stream)  # before anything is written: a full disk must not cost the episodes
    if clips and ends is not None:
        kind = KINDS[options.mode][0][0]
        of = "eval" if options.weights == "last" else f"eval-{options.weights}"
        named = zip(("best", "worst"), clips, ends, strict=True)
        report["videos"] = {n: _video(options.run, f"{of}-{n}-episode", c, f"{n}, {kind}", t) for n, c, t in named}
    write_atomic(options.run / REPORT[options.weights], json.dumps(report, indent=1).encode())
    seeds_told = f"seeds {report['seeds']['first']}..{report['seeds']['last']}"
    print(f"{seeds_told}; written to {options.run / REPORT[options.weights]}", file=stream)
    return report


def _processes(options: Options) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(options.envs or min(cores, 16), options.episodes))


def _rounds(episodes: int, envs: int) -> int:
    return -(-episodes // envs)


def _refuse_monitoring_seeds(options: Options, monitoring: dict[str, Any]) -> None:
    from agent.build import ConfigError

    low, high = monitoring["seed"], monitoring["seed"] + monitoring["episodes"] - 1
    if options.seed <= high and options.seed + options.episodes > low:
        raise ConfigError(
            f"seed={options.seed} episodes={options.episodes} would use seeds {low}..{high} again, on which the run "
            "was watched while it trained: choose others"
        )


def _episodes(
    agent: Agent, envs: Any, seeds: Sequence[int], mode: bool, progress: _Progress
) -> tuple[list[Trace], tuple[Trace, Trace]]:
    """All episodes without their observations, and the best and the worst with them (by score; of equals the first)."""
    from agent.collect import run_episodes

    traces: list[Trace] = []
    best: Trace | None = None
    worst: Trace | None = None
    for begin in range(0, len(seeds), len(envs)):
        group = run_episodes(agent, envs, seeds[begin : begin + len(envs)], mode=mode, on_step=progress.step)
        for trace in group:
            best = trace if best is None or trace.score > best.score else best
            worst = trace if worst is None or trace.score < worst.score else worst
            traces.append(dataclasses.replace(trace, obs=[np.empty(0)] * len(trace.obs), action=[]))
    assert best is not None and worst is not None
    return traces, (best, worst)


def _summary(traces: Sequence[Trace], subtasks: Sequence[str]) -> dict[str, Any]:
    """`score.summarise`, the number of solved sub-tasks, and what every episode reached."""
    from agent.score import mean_interval, summarise

    each = [
        {
            "seed": t.seed,
            "score": t.score,
            "success": t.success,
            "steps": t.steps,
            "return": t.reward,
            "done": [name for name, done in zip(subtasks, t.tasks_done, strict=True) if done],
            "measures": t.measures,
        }
        for t in traces
    ]
    solved = mean_interval([float(t.tasks_done.sum()) for t in traces])
    return {**summarise(traces, subtasks), "tasks_solved": solved, "each": each}


def _frames(envs: Any, trace: Trace, obs: str) -> np.ndarray:
    """(T, 256, 256, 3) uint8, every second row of an episode: its pictures, or, from state, those of the same actions
    after a reset to the same seed, of a long episode ``FRAMES`` at most.

    Raises EnvError when nothing can draw, or when the same actions lead elsewhere.
    """
    from agent import video

    if obs == "pixels":
        return video.upscale(np.stack(trace.obs[::2]), max(1, SIZE // trace.obs[0].shape[0]))
    every = max(2, -(-len(trace.obs) // FRAMES))
    row, _ = envs.reset_at(0, trace.seed)
    frames = [envs.render_at(0, SIZE)]
    for t, action in enumerate(trace.action[1:], start=1):
        row = envs.step(action[None])[0][0]
        if t % every == 0:
            frames.append(envs.render_at(0, SIZE))
    if not np.array_equal(row, trace.obs[-1]):
        raise EnvError(f"the actions of seed {trace.seed} lead elsewhere when they are played again")
    return np.stack(frames)


def _video(run: Path, file: str, frames: np.ndarray, name: str, trace: Trace) -> str:
    """Write RUN/videos/FILE.gif (and .mp4 where ffmpeg is there); returns its path in the run folder."""
    from agent import video

    frames = video.label(frames, f"{name}: score {trace.score:.4g}, seed {trace.seed}")
    path = run / "videos" / f"{file}.gif"
    video.write_gif(path, frames, fps=20)
    video.write_mp4(path.with_suffix(".mp4"), frames, fps=20)
    return str(path.relative_to(run))


def _print(report: dict[str, Any], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    results, subtasks = report["results"], report["subtasks"]
    at, n = report["checkpoint"], report["episodes"]
    kept = "" if at["weights"] == "last" else f", {at['weights']} weights"
    table = Table(
        title=f"{report['config']}{kept}, step {at['step']}, {at['updates']} updates: {n} episodes", min_width=60
    )
    table.add_column("mean and 95 % interval")
    for name in results:
        table.add_column(name, justify="right")

    def row(label: str, values: list[Interval]) -> None:
        table.add_row(label, *(f"{mean:.2f}  [{low:.2f}, {high:.2f}]" for mean, low, high in values), style=None)

    for task in subtasks:
        row(task, [r["tasks"][task] for r in results.values()])
    table.add_section()
    if subtasks:
        row(f"tasks solved of {len(subtasks)}", [r["tasks_solved"] for r in results.values()])
        row("all tasks solved", [r["success"] for r in results.values()])
    elif any(r["success"][0] > 0 for r in results.values()):
        row("success", [r["success"] for r in results.values()])
    if not subtasks or any(r["score"] != r["tasks_solved"] for r in results.values()):
        row("score", [r["score"] for r in results.values()])
    for name in next(iter(results.values()))["measures"]:
        row(name, [r["measures"][name] for r in results.values()])
    console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    console.print(report["success_definition"])
    if report["note"]:
        console.print(report["note"])


class _Progress:
    """A line with the time left: rewritten in place on a terminal, else a new one every half minute."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._stream = max(1, total), stream
        self._done = 0
        self._begin = self._shown = time.monotonic()
        self._tty = stream.isatty()

    def step(self, running: int) -> None:
        """One step of all environments, `running` of which are still in their episode."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown < (0.5 if self._tty else 30.0):
            return
        self._shown = now
        elapsed, share = now - self._begin, min(1.0, self._done / self._total)
        text = f"evaluating: {share:4.0%}  elapsed {_clock(elapsed)}  left {_clock(elapsed * (1 - share) / share)}"
        print(f"\r{text} " if self._tty else text, end="" if self._tty else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        """End the line."""
        if self._tty:
            print(f"\r{'':70}\r", end="", file=self._stream, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main())
