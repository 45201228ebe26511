"""Turn demonstrations of another format into the project's own, checked on the way.

usage: python -m demos.convert format=cmil src=DIR out=DIR [camera=NAME] [like=PATH] [episodes=N] [KEY=VALUE ...]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos import cli, dataset, formats, robot
from demos.errors import DemoError
from demos.formats import own
from demos.formats.wanted import Wanted
from demos.redraw import redrawn
from envs.episode import Episode
from envs.errors import nearest

USAGE = """python -m demos.convert format=F src=DIR out=DIR [camera=NAME] [like=PATH] [episodes=N] [KEY=VALUE ...]

format    the format of the source files: {formats}
src       folder of files of that format, one file, or the folder of a Minari or LeRobot data set
out       folder for the converted files (made if missing), one per episode, under the source's name
camera    whose pictures, where robomimic or LeRobot files hold those of several
like      a set that was converted, or a policy's policy.json: with its low and high of the actions, so that several
          sets of one robot share one scale
low, high the same as lists, '[-3.14, 0]' '[3.14, 0.07]': the actions, in the robot's units, that become -1 and 1
instruction  those episodes alone that were to do this, in the words that demos.inspect lists
task      refuse demonstrations of another task
episodes  convert the first N only
redraw    true draws the pictures anew, as the task's environment does, from what the files tell of the positions
force     true overwrites files that are already there"""


@dataclass(frozen=True)
class Options:
    """What the command line can set."""

    format: str
    src: Path
    out: Path
    camera: str | None = None
    like: Path | None = None
    low: str | None = None
    high: str | None = None
    instruction: str | None = None
    task: str | None = None
    episodes: int | None = None
    redraw: bool = False
    force: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv` (the process's arguments by default); returns its exit code."""
    usage = USAGE.format(formats=", ".join(formats.FORMATS))
    return cli.run(_convert, Options, argv, usage, interrupted="interrupted; nothing was written")


def _convert(options: Options) -> None:
    if options.format not in formats.FORMATS:
        raise cli.UsageError(f"unknown format {options.format!r}{nearest(options.format, formats.FORMATS)}")
    sources = dataset.files(options.src)
    for source in sources:
        kind = formats.sniff(source).NAME
        if kind != options.format:
            raise DemoError(source, "format", f"is {kind}, not {options.format}")
    scale, number = _scale(options), 0
    told: dict[str, None] = {}
    # What is not complete stays out of sight: a bad source leaves no half-converted folder.
    with dataset.staged(options.out) as folder:
        for source, episode in dataset.stream(
            options.src,
            task=options.task,
            limit=options.episodes,
            obs_keys=None,
            camera=options.camera,
            instruction=options.instruction,
        ):
            target = folder / _name(source, episode)
            if (options.out / target.name).exists() and not options.force:
                raise DemoError(options.out / target.name, "out", "exists already; force=true overwrites")
            if options.redraw:
                episode = redrawn(source, episode)
            if scale is not None:
                episode = _rescaled(source, episode, scale)
            dataset.save(target, _named(episode, source))
            _prove(target, episode)
            number += 1
            told |= dict.fromkeys(dataset.instructions(episode))
            size = f"{episode.steps} steps, {target.stat().st_size / 1024:.0f} KiB"
            where = f"file {sources.index(source) + 1} of {len(sources)}"
            print(f"{target.name}: {size} ({where})", file=sys.stderr, flush=True)
    if options.instruction is None and (mixed := dataset.mixed(options.src, told)) is not None:
        print(mixed, file=sys.stderr)
    print(f"{number} episodes; look at them with: python -m demos.inspect {options.out}")


def _scale(options: Options) -> dict[str, Any] | None:
    """Low and high of the actions that are asked for; None: each set's own."""
    if options.low is not None and options.high is not None and options.like is None:
        low, high = _numbers("low", options.low), _numbers("high", options.high)
        if len(low) != len(high) or any(a > b for a, b in zip(low, high, strict=True)):
            raise cli.UsageError(f"low={options.low} high={options.high}: expected equally many, low <= high")
        return {"low": low, "high": high}
    if options.low is not None or options.high is not None:
        raise cli.UsageError("low and high go together, and without like")
    return None if options.like is None else _of(options.like)


def _numbers(key: str, text: str) -> list[float]:
    try:
        return np.array(json.loads(text), np.float64).reshape(-1).tolist()
    except (ValueError, TypeError) as error:
        raise cli.UsageError(f"{key}={text}: expected numbers, [NUMBER, NUMBER, ...]") from error


def _of(like: Path) -> dict[str, Any]:
    """Names, low and high of the actions of a data set, or of a policy's card. Raises DemoError: there are none."""
    card = like / "policy.json" if (like / "policy.json").is_file() else like
    if card.suffix == ".json":
        try:
            told = json.loads(card.read_text())
        except (OSError, ValueError) as error:
            raise DemoError(card, "like", f"is no readable JSON ({error})") from error
        told = told.get("robot") if isinstance(told, dict) else None
    else:
        told = next(iter(formats.read(dataset.files(like)[0], Wanted(keys=("state",))))).meta.get("robot")
    found = robot.scale(told)
    if found is None:
        raise DemoError(like, "like", "tells no low and high of the robot's actions")
    return found


def _rescaled(source: Path, episode: Episode, scale: Mapping[str, Any]) -> Episode:
    try:
        return robot.rescaled(episode, scale)
    except ValueError as error:
        raise DemoError(source, "action", str(error)) from error


def _name(source: Path, episode: Episode) -> str:
    """A file name for an episode: its source's, numbered unless that is an npz file, which is always one episode.

    A Minari or LeRobot file goes by its data set's name, since all of them are called alike.
    """
    stem = str(episode.meta.get("dataset_id", source.stem)).replace("/", "-")
    single = source.suffix == own.SUFFIX
    return source.name if single else f"{stem}-{episode.meta['episode']:04d}{own.SUFFIX}"


def _named(episode: Episode, source: Path) -> Episode:
    """The episode with its origin in meta, unless the reader put it there already."""
    return dataclasses.replace(episode, meta={"file": source.name, **episode.meta})


def _prove(target: Path, episode: Episode) -> None:
    """Read the written file back and compare, so that a conversion that reports success has one."""
    (again,) = dataset.read(target)
    if dataset.checksum(again) != dataset.checksum(episode):
        raise DemoError(target, "file", "reads back differently from what was written; is the disk sound?")


if __name__ == "__main__":
    raise SystemExit(main())
