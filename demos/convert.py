"""Turn demonstrations of another format into the project's own, checked on the way.

usage: python -m demos.convert format=cmil src=DIR out=DIR [camera=NAME] [task=...] [episodes=N] [redraw=false]
       [force=false]
"""

from __future__ import annotations

import dataclasses
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
    return cli.run(_convert, Options, argv, USAGE.format(formats=", ".join(formats.FORMATS)))


def _convert(options: Options) -> None:
    if options.format not in formats.FORMATS:
        raise cli.UsageError(f"unknown format {options.format!r}{nearest(options.format, formats.FORMATS)}")
    sources = dataset.files(options.src)
    for source in sources:
        kind = formats.sniff(source).NAME
        if kind != options.format:
            raise DemoError(source, "format", f"is {kind}, not {options.format}")
    # Everything is read and checked before the first file is written: a bad source leaves no half-converted folder.
    found = dataset.load_named(
        options.src, task=options.task, limit=options.episodes, obs_keys=None, camera=options.camera
    )
    targets = [options.out / name for name in _names(found)]
    taken = [target for target in targets if target.exists()]
    if taken and not options.force:
        raise DemoError(taken[0], "out", f"exists already, {len(taken)} such files; force=true overwrites")
    dataset.make_folder(options.out)
    if options.redraw:
        found = [(source, redrawn(source, episode)) for source, episode in found]
    for (source, episode), target in zip(found, targets, strict=True):
        dataset.save(target, _named(episode, source))
        _prove(target, episode)
        print(f"{target}: {episode.steps} steps, {target.stat().st_size / 1024:.0f} KiB")
    print(f"{len(targets)} episodes; look at them with: python -m demos.inspect {options.out}")


def _names(found: Sequence[tuple[Path, Episode]]) -> list[str]:
    """A file name for each episode: its source's, numbered unless that is an npz file, which is always one episode.

    A Minari or LeRobot file goes by its data set's name, since all of them are called alike.
    """
    names = []
    for source, episode in found:
        stem = str(episode.meta.get("dataset_id", source.stem)).replace("/", "-")
        single = source.suffix == own.SUFFIX
        names.append(source.name if single else f"{stem}-{episode.meta['episode']:04d}{own.SUFFIX}")
    return names


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
