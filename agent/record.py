"""``python -m agent.record run=DIR out=OUT episodes=10``: a trained policy's episodes as demonstrations or a data set.

    out=FOLDER       one file an episode, in the project's own format. What is recorded replays: every row holds the
                     simulator state, where there is one. No rewards.
    out=FILE.hdf5    all in one file in D4RL's layout, with the true rewards for methods that are told them
                     (dataset=FILE.hdf5), without simulator states

``pixels=true`` has the pictures recorded beside the states of a run with obs=state, for others with obs=pixels.
``source=replay`` does not act: it writes what the run has collected itself while it trained, with the rewards if it
kept them (algo=expert does). Episodes that score less than ``min_score`` are not kept. Seeds are neither those of
training nor those of evaluation.

``out`` is written when all is recorded; until then, and where something goes wrong, it is as it was. Only where too few
episodes reach ``min_score``, and nothing would be replaced, those that do are written all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.finished import command, open_env, open_run, rebuild, refuse_recordings, robot_of
from demos import dataset
from demos.errors import DemoError
from demos.formats import d4rl, npz, own
from envs.episode import Episode, EpisodeBuilder

USAGE = (
    "python -m agent.record run=DIR out=FOLDER|FILE.hdf5 [episodes=10] [steps=none] [source=policy|replay] [seed=0] "
    "[pixels=false] [sampled=false] [min_score=none] [force=false] [weights=last|best|chosen] [device=auto]"
)
RECORD_SEEDS = 3 << 29  # above training's and evaluation's
SOURCE = "agent.record"  # what episodes tell of their origin
SOURCES = ("policy", "replay")


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    out         a folder for demonstrations, or FILE.hdf5 for one file in D4RL's layout, with the true rewards
    episodes    how many
    steps       instead: whole episodes of so many steps together
    source      policy: new episodes; replay: what the run itself has collected (out=FILE.hdf5; true rewards where the
                run was told them: algo=expert)
    seed        of the episodes, whose starts no training or evaluation has seen
    pixels      pictures, too, of a run that sees states
    sampled     sampled actions instead of the most likely ones
    min_score   keep only episodes that score at least this
    force       replace what this command has written there
    weights     last, best or chosen, as `agent.evaluate`'s
    device      auto, cpu, cuda, cuda:N
    """

    run: Path
    out: Path
    episodes: int = 10
    steps: int | None = None
    source: str = "policy"
    seed: int = 0
    pixels: bool = False
    sampled: bool = False
    min_score: float | None = None
    force: bool = False
    weights: str = "last"
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Record one run's policy. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    return command("agent.record", USAGE, record, Options, argv, "interrupted; nothing was written")


class TooFew(DemoError):
    """Fewer episodes than were asked for are good enough."""


def record(options: Options) -> list[Path]:
    """Record until ``episodes`` (or ``steps``) are kept, or three times as many were tried; the files written.

    Raises:
        ConfigError, CheckpointError: no run or no checkpoint, or it cannot be recorded like that. EnvError: the task
        cannot run here. TooFew: of those that reach ``min_score``. DemoError: the disk refuses.
    """
    from agent.build import ConfigError

    if options.episodes < 1 or (options.steps is not None and options.steps < 1):
        raise ConfigError("episodes must be at least 1" if options.episodes < 1 else "steps must be at least 1")
    if options.source not in SOURCES:
        raise ConfigError(f"source={options.source}: expected one of {', '.join(SOURCES)}")
    config, state = open_run(options.run, options.weights)
    joint = options.out.suffix == d4rl.SUFFIX
    if joint and config["obs"]["key"] != "state":
        raise ConfigError(f"out={options.out}: D4RL's layout holds states, this run has obs={config['obs']['name']}")
    if options.pixels and (joint or config["obs"]["key"] != "state"):
        raise ConfigError("pixels=true: adds pictures to the episodes of a run with obs=state, in a folder")
    taken = [options.out] if options.out.is_file() else sorted(options.out.glob("*.npz"))
    if taken and not options.force:
        raise ConfigError(f"out={options.out}: holds episodes already ({taken[0].name}); force=true replaces them")
    foreign = [] if joint else [path for path in taken if not _recorded(path)]
    if foreign:
        reason = f"holds {foreign[0].name}, which this command has not written: name another folder"
        raise ConfigError(f"out={options.out}: {reason}")
    if options.source == "replay":
        if not joint:
            raise ConfigError(f"source=replay: out must name a {d4rl.SUFFIX} file")
        chosen = options.sampled or options.steps is not None or options.min_score is not None
        if chosen or options.weights != "last" or options.episodes != Options.episodes:
            named = "episodes, sampled, steps, min_score, weights"
            raise ConfigError(f"source=replay is all that the run has collected: no {named}")
        return [_join(options.out, list(collected(options.run, config, state)))]
    refuse_recordings(config)
    dataset.make_folder(options.out.parent)  # what cannot be written is told before all is recorded
    written: list[Path] = []
    kept: list[Episode] = []
    short: TooFew | None = None
    with contextlib.nullcontext(options.out) if joint else dataset.staged(options.out, taken) as folder:
        try:
            for episode in _good(options, config, state):
                if joint:
                    kept.append(dataclasses.replace(episode, sim_state=None))
                    continue
                path = options.out / f"{config['task']['name']}-{len(written):04d}.npz"
                dataset.save(folder / path.name, episode)
                written.append(path)
        except TooFew as error:
            if taken:
                raise TooFew(error.path, error.key, f"{error.reason}; what was there is kept") from error
            if not kept and not written:
                raise
            short = TooFew(error.path, error.key, f"{error.reason}; these are written")
    if joint:
        written = [_join(options.out, kept)]
    if short is not None:
        raise short
    return written


def _recorded(path: Path) -> bool:
    """Whether the file is an episode that this command has written."""
    try:
        return own.read_meta(path, npz.arrays(path, ("meta",))["meta"]).get("source") == SOURCE
    except DemoError:
        return False


def _good(options: Options, config: dict[str, Any], state: dict[str, Any]) -> Iterator[Episode]:
    """The policy's episodes that are good enough, until they are enough. Raises TooFew when they never are."""
    import torch

    from agent.build import pick_device
    from agent.collect import one_thread

    key = "image" if options.pixels else config["obs"]["key"]
    env = open_env(config, "pixels" if options.pixels else None)
    robot = robot_of(options.run)
    assert env.observation_space.shape is not None and env.action_space.shape is not None
    shape = env.reset(seed=0)[1]["state"].shape if options.pixels else env.observation_space.shape
    agent = rebuild(options.run, config, state, env.action_space.shape[0], shape, pick_device(options.device))
    torch.manual_seed(options.seed)
    wanted = options.episodes if options.steps is None else options.steps
    kept = tried = number = found = 0
    while kept < wanted and tried < 3 * wanted:
        with one_thread():  # and the numbers do not depend on how many there are
            seed, mode = RECORD_SEEDS + options.seed + number, not options.sampled
            episode = played(agent, env, key, seed, mode=mode, by_state=options.pixels)
        if robot is not None:
            episode.meta["robot"] = robot
        score, amount = episode.meta["score"], 1 if options.steps is None else episode.steps
        good = options.min_score is None or score >= options.min_score
        tried, number, kept, found = tried + amount, number + 1, kept + good * amount, found + good
        told = f"score {score:.6g}, {episode.steps} steps: {'kept' if good else 'not kept'}; {kept}/{wanted}"
        print(told, file=sys.stderr)
        if good:
            yield episode
    env.close()
    if kept < wanted:
        raise TooFew(options.out, "min_score", f"only {found} of {number} episodes reached {options.min_score or 0:g}")


def played(agent: Any, env: Any, key: str, seed: int, *, mode: bool, by_state: bool = False) -> Episode:
    """One episode of the policy with its observations, simulator states, rewards and score. by_state: as `play`'s."""
    from agent.collect import play

    sim = env.unwrapped
    builder = EpisodeBuilder({"task": sim.task, "seed": seed, "source": SOURCE, "subtasks": list(sim.subtasks)})
    for row in play(agent, env, seed, mode=mode, by_state=by_state):
        numbers = np.asarray(row.info["state"], np.float32)
        seen = ({"state": numbers} if numbers.size else {}) | {key: row.obs}
        if row.action is None:
            builder.start(seen, sim.get_state())
        else:
            builder.add(row.action, seen, terminated=row.terminated, reward=row.reward, sim_state=sim.get_state())
        builder.meta |= {"score": float(row.info["score"]), "success": bool(row.info["success"])}
    return builder.finish()


def collected(run: Path, config: dict[str, Any], state: dict[str, Any]) -> Iterator[Episode]:
    """The episodes of a run's own that its replay holds, oldest first. Raises ConfigError when there are none."""
    from agent.build import ConfigError
    from agent.data import Replay, ReplayError

    index = state["replay"]
    layout = {key: index["layout"][key] for key in ("obs_shape", "obs_dtype", "action_size", "keep_checkpoints")}
    truth = index["layout"].get("truth", False)
    if "termination" in index["layout"]:
        raise ConfigError(f"{run}: its replay holds other ends of episodes than the environment's (data.termination)")
    if not (run / "replay").is_dir():
        raise ConfigError(f"{run}: its replay is not there any more")
    try:
        replay = Replay(run / "replay", **layout, capacity=index["file_rows"], budget_gb=float("inf"), truth=truth)
        replay.load_state_dict(index)
    except ReplayError as error:
        raise ConfigError(str(error)) from error
    try:
        if not replay.ids("online"):
            raise ConfigError(f"{run}: this run has collected no episodes")
        for number in replay.ids("online"):
            chunk = replay.get(number)
            yield Episode(
                obs={config["obs"]["key"]: chunk.obs[0]},
                action=chunk.action[0],
                is_first=chunk.is_first[0],
                is_last=chunk.is_last[0],
                is_terminal=chunk.is_terminal[0],
                reward=np.full(chunk.action.shape[1], np.nan, np.float32) if chunk.truth is None else chunk.truth[0],
                meta={"task": config["task"]["name"]},
            )
    finally:
        replay.close()


def _join(path: Path, episodes: Sequence[Episode]) -> Path:
    """Write one file in D4RL's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for episode in episodes:
        dataset.check(path, episode)
    dataset.write_atomic(path, d4rl.encode(episodes))
    told = "with" if np.isfinite(episodes[0].reward[1:]).all() else "without"
    print(f"{path}: {len(episodes)} episodes, {sum(e.steps for e in episodes)} steps, {told} rewards", file=sys.stderr)
    return path


if __name__ == "__main__":
    sys.exit(main())
