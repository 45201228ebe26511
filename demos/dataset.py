"""Demonstrations in and out: load, check, save, fingerprint. The only door through which they reach a learner."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demos import formats, robot
from demos.errors import DemoError
from demos.formats import lerobot, minari, own
from demos.formats.wanted import ALL, Wanted
from envs.episode import Episode, EpisodeError

__all__ = [
    "DemoError",
    "check",
    "checksum",
    "files",
    "fits",
    "instructions",
    "load",
    "make_folder",
    "mixed",
    "read",
    "save",
    "shipped",
    "staged",
    "stream",
    "write_atomic",
]

# Rounding while a foreign file was written may leave an action a hair outside; more than that is another scale.
ACTION_TOLERANCE = 1e-6

_MIXED: set[str] = set()  # paths of which this process has told that they hold several instructions


def load(
    path: str | Path,
    *,
    task: str | None = None,
    limit: int | None = None,
    obs_keys: Sequence[str] | None = ("image",),
    rewards: bool = False,
    options: Mapping[str, Any] | None = None,
    camera: str | None = None,
) -> list[Episode]:
    """Load the demonstrations of a folder (or one file), sorted by file name, checked and stripped of rewards.

    Args:
        path: folder of demonstration files in any known format, a Minari or LeRobot data set's folder, or one file.
        task: refuse demonstrations of another task.
        limit: use the first `limit` episodes only (all of them when there are fewer); files behind them stay unread.
        obs_keys: the observations to keep, each of which every episode must have; None keeps what there is.
        rewards: leave the recorded rewards in (row 0 has none), which every row must have then: for methods that are
            told rewards, and for looking at learned ones beside them. Never for imitation.
        options: of the task, that the demonstrations shall fit: meta["options"] tells those that an array depends on.
        camera: whose pictures, of data sets with several cameras.

    Returns:
        Episodes with every reward NaN (algorithms 1.5) unless asked for, and `obs` of exactly `obs_keys`. A line on
        standard error tells where they have more than one instruction.

    Raises:
        DemoError: anything wrong with the path or a file, including episodes that differ in task, action size or
            observation size, or that were made with other options.
    """
    found = list(stream(path, task=task, limit=limit, obs_keys=obs_keys, rewards=rewards, camera=camera))
    for file, episode in found:
        fits(file, episode.meta, ("action", *episode.obs), options or {})
    episodes = [episode for _, episode in found]
    told = mixed(path, itertools.chain.from_iterable(map(instructions, episodes)))
    if told is not None and str(path) not in _MIXED:
        _MIXED.add(str(path))  # training and its evaluations load the same
        print(told, file=sys.stderr)
    return episodes


def stream(
    path: str | Path,
    *,
    task: str | None = None,
    limit: int | None = None,
    obs_keys: Sequence[str] | None = ("image",),
    rewards: bool = False,
    camera: str | None = None,
    instruction: str | None = None,
) -> Iterator[tuple[Path, Episode]]:
    """As `load`, with the file that each episode came from, and one after the other, so that not all of them are in
    memory; whether they fit a task's options is not asked. instruction: those with this one alone. DemoError where
    there are none.
    """
    if limit is not None and limit < 1:
        raise DemoError(path, "limit", f"is {limit}; expected at least 1")
    first: tuple[Path, Episode] | None = None
    wanted = Wanted(obs_keys, camera, instruction)
    for file, episode in itertools.islice(_episodes(files(path), wanted, rewards=rewards), limit):
        if task is not None and episode.meta.get("task") != task:
            by = f", by {episode.meta['task_by']}" if "task_by" in episode.meta else ""
            raise DemoError(file, "task", f"is {episode.meta.get('task')!r}{by}; this run is about {task!r}")
        kept = _keep(file, episode, obs_keys)
        first = first or (file, kept)
        _agree(file, kept, *first)
        yield file, kept
    if first is None:
        raise DemoError(
            path, "instruction", f"no episode has {instruction!r}; demos.inspect lists those that there are"
        )


def instructions(episode: Episode) -> list[str]:
    """What the episode was to do, in words, where its meta["instruction"] tells that."""
    told = episode.meta.get("instruction", [])
    return [str(one) for one in (told if isinstance(told, list) else [told])]


def mixed(path: str | Path, told: Iterable[str]) -> str | None:
    """A line that tells of different instructions in one data set, which no learner here sees; None: there are none."""
    different = list(dict.fromkeys(told))
    if len(different) < 2:
        return None
    some = ", ".join(map(repr, different[:3])) + (", ..." if len(different) > 3 else "")
    return f"{path}: {len(different)} instructions ({some}) count as one task; demos.convert instruction=TEXT takes one"


def read(path: str | Path) -> list[Episode]:
    """Read and check all episodes of one file of any known format, with all observations; rewards are NaN.

    Raises:
        DemoError: unknown format, damaged file, or contents that break the episode contract.
    """
    return [episode for _, episode in _episodes([Path(path)])]


def _episodes(paths: Iterable[Path], wanted: Wanted = ALL, *, rewards: bool = False) -> Iterator[tuple[Path, Episode]]:
    """The checked episodes of one file after the other, each file opened only when its first episode is asked for."""
    for path in paths:
        decoded = formats.read(path, wanted)
        for number, episode in enumerate(decoded):
            try:
                checked = check(path, episode, rewards=rewards)
            except DemoError as error:
                if isinstance(decoded, list) and len(decoded) == 1:
                    raise
                raise DemoError(path, error.key, f"{error.reason} (episode {number} of the file)") from error
            if wanted.instruction is None or wanted.instruction in instructions(checked):
                yield path, checked


def check(path: str | Path, episode: Episode, *, rewards: bool = False) -> Episode:
    """The episode with rewards NaN (with ``rewards``: all there, but that of row 0) and actions clipped to [-1, 1]
    (from at most 1e-6 outside), proven valid.

    Raises:
        DemoError: the episode breaks its contract (see `envs.episode.Episode.validate`), or its meta["robot"] is not
            as `demos.robot` says.
    """
    action = episode.action
    if action.dtype == np.float32 and np.isfinite(action).all():
        clipped = np.clip(action, -1, 1)
        # The comparison allows for the half unit in the last place that float32 itself adds to 1e-6.
        if (np.abs(action - clipped) <= ACTION_TOLERANCE + np.finfo(np.float32).eps).all():
            action = clipped
    if rewards and not np.isfinite(episode.reward[1:]).all():
        raise DemoError(path, "reward", "is not told, or not finite, in some row; this use needs the recorded rewards")
    reward = episode.reward if rewards else np.full(episode.reward.shape, np.nan, np.float32)
    episode = dataclasses.replace(episode, action=action, reward=reward)
    try:
        episode.validate()
    except EpisodeError as error:
        hint = "; demos.robot.unit maps a robot's own units to it" if "[-1, 1]" in error.reason else ""
        raise DemoError(path, error.key, error.reason + hint) from error
    if (wrong := robot.problem(episode)) is not None:
        raise DemoError(path, "robot", wrong)
    return episode


def save(path: str | Path, episode: Episode) -> None:
    """Write one episode in the project's own format, whole or not at all; an existing file is replaced.

    Rewards are not stored. The folder is made if missing.

    Raises:
        DemoError: the episode is invalid, the name does not end in .npz, or the folder or the file cannot be made.
    """
    path = Path(path)
    if path.suffix != own.SUFFIX:
        raise DemoError(path, "file", f"the name must end in {own.SUFFIX}")
    check(path, episode)
    try:
        content = own.encode(episode)
    except ValueError as error:
        raise DemoError(path, "meta", str(error)) from error
    make_folder(path.parent)
    write_atomic(path, content)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, as far as they are missing. Raises DemoError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(folder, "out", f"cannot be made: {error.strerror or error}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes so that `path` afterwards holds all of them or what it held before, whatever happens.

    Raises:
        DemoError: the system refused (disk full, no permission, no such folder).
    """
    # Hidden and with another suffix, so that a reader of the folder never takes it for a demonstration.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DemoError(path, "file", f"not written: {error.strerror or error}") from error
        raise


@contextlib.contextmanager
def staged(out: Path, replaced: Sequence[Path] = ()) -> Iterator[Path]:
    """A hidden folder beside `out`, whose files move into it when the block is done. Where the block fails, or is
    interrupted, `out` is as it was.

    replaced: files of `out` that go then.

    Raises:
        DemoError: a folder cannot be made, or the files cannot be moved.
    """
    target = out.resolve()
    make_folder(target.parent)
    try:
        held = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise DemoError(out, "out", f"cannot be made: {error.strerror or error}") from error
    with held as name:
        yield Path(name)
        make_folder(target)
        try:
            new = sorted(Path(name).iterdir())
            for path in new:
                shutil.move(path, target / path.name)
            for path in replaced:
                if path.name not in {one.name for one in new}:
                    path.unlink()
        except OSError as error:
            raise DemoError(out, "out", f"cannot be filled: {error.strerror or error}") from error


def checksum(episode: Episode) -> str:
    """SHA-256 (hex) of what a learner and a simulator see: observations, actions, flags, simulator state.

    Rewards and meta are left out, so loading, renaming or annotating a file does not change it.
    """
    digest = hashlib.sha256()
    parts = {f"obs.{key}": value for key, value in sorted(episode.obs.items())}
    parts |= {key: getattr(episode, key) for key in ("action", "is_first", "is_last", "is_terminal")}
    if episode.sim_state is not None:
        parts["sim_state"] = episode.sim_state
    for key, value in parts.items():
        digest.update(f"{key} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def shipped(task: str) -> Path:
    """Folder of the demonstrations that come with the project for `task`.

    Raises:
        DemoError: the project ships none for this task.
    """
    root = Path(__file__).resolve().parent
    folder = root / task
    # A task is a plain name, and a folder without demonstrations (formats, experts) is no task.
    if Path(task).name != task or not folder.is_dir() or not _listing(folder):
        names = sorted(child.name for child in root.iterdir() if child.is_dir() and _listing(child))
        known = f"there are some for {', '.join(names)}" if names else "there are none for any task"
        raise DemoError(folder, "task", f"no demonstrations come with the project for {task!r}; {known}")
    return folder


def files(path: str | Path) -> list[Path]:
    """The demonstration files of a folder by name, the data files of a Minari or LeRobot data set, or the one file
    `path` is.

    Raises:
        DemoError: no such file or folder, a folder without demonstrations, or a damaged list of them.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DemoError(path, "path", "no such file or folder")
    if lerobot.is_set(path):
        return lerobot.files(path)
    found = _listing(path)
    if not found and (path / minari.DATA).is_file():
        return [path / minari.DATA]
    if not found:
        raise DemoError(path, "path", f"holds no demonstrations ({', '.join(formats.SUFFIXES)} files)")
    return found


def _listing(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DemoError(folder, "path", f"cannot be listed: {error.strerror or error}") from error
    return [c for c in children if c.suffix in formats.SUFFIXES and not c.name.startswith(".") and c.is_file()]


def _keep(path: Path, episode: Episode, obs_keys: Sequence[str] | None) -> Episode:
    if obs_keys is None:
        return episode
    for key in obs_keys:
        if key not in episode.obs:
            raise DemoError(path, key, f"no such observation; the file has {', '.join(sorted(episode.obs))}")
    return dataclasses.replace(episode, obs={key: episode.obs[key] for key in obs_keys})


def fits(path: Path, meta: Mapping[str, Any], keys: Iterable[str], options: Mapping[str, Any]) -> None:
    """Refuse arrays of the names ``keys`` that mean something else under the task's options. Raises DemoError."""
    for key in keys:
        for option, value in meta.get("options", {}).get(key, {}).items():
            if option in options and options[option] != value:
                reason = f"was made with {option}={value}, this run has {option}={options[option]}"
                raise DemoError(path, key, f"{reason}: set task.options.{option}={value}")


def _agree(path: Path, episode: Episode, first_path: Path, first: Episode) -> None:
    """Refuse an episode that cannot be one data set with the first one; the message names both files."""
    pairs: dict[str, tuple[object, ...]] = {}
    if "task_by" not in episode.meta.keys() & first.meta.keys():  # no file tells its task, and all names differ
        pairs["task"] = (episode.meta.get("task"), first.meta.get("task"))
    pairs["action"] = (episode.action.shape[1:], first.action.shape[1:])
    for key in sorted(set(episode.obs) | set(first.obs)):
        pairs[key] = tuple(one.obs[key].shape[1:] if key in one.obs else "absent" for one in (episode, first))
    for key, (here, there) in pairs.items():
        if here != there:
            raise DemoError(path, key, f"is {here}, but {there} in {first_path.name}: not one data set")
    differs = robot.differing(*(one.meta.get("robot", {}) for one in (episode, first)))
    if differs is not None:
        raise DemoError(path, "robot", f"{differs}; here and in {first_path.name}: not one data set")
