"""Turn demonstrations of another format into the project's own, checked on the way.

usage: python -m demos.convert format=cmil src=DIR out=DIR [camera=NAME] [task=...] [episodes=N] [redraw=false]
       [force=false]
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demos import cli, dataset, formats
from demos.errors import DemoError
from demos.formats import own
from demos.redraw import redrawn
from envs.episode import Episode
from envs.errors import nearest

USAGE = """python -m demos.convert format=F src=DIR out=DIR [camera=NAME] [episodes=N] [KEY=VALUE ...]

format    the format of the source files: {formats}
src       folder of files of that format, one file, or the folder of a Minari or LeRobot data set
out       folder for the converted files (made if missing), one per episode, under the source's name
camera    whose pictures, where robomimic or LeRobot files hold those of several
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
    number = 0
    # What is not complete stays out of sight: a bad source leaves no half-converted folder.
    with dataset.staged(options.out) as folder:
        for source, episode in dataset.stream(
            options.src, task=options.task, limit=options.episodes, obs_keys=None, camera=options.camera
        ):
            target = folder / _name(source, episode)
            if (options.out / target.name).exists() and not options.force:
                raise DemoError(options.out / target.name, "out", "exists already; force=true overwrites")
            shown = redrawn(source, episode) if options.redraw else episode
            dataset.save(target, _named(shown, source))
            _prove(target, shown)
            number += 1
            size = f"{shown.steps} steps, {target.stat().st_size / 1024:.0f} KiB"
            where = f"file {sources.index(source) + 1} of {len(sources)}"
            print(f"{target.name}: {size} ({where})", file=sys.stderr, flush=True)
    print(f"{number} episodes; look at them with: python -m demos.inspect {options.out}")


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
