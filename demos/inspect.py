"""Look at demonstrations: a table on the terminal, a contact sheet and an animation on disk.

usage: python -m demos.inspect DIR [out=DIR/inspect] [camera=NAME] [limit=N] [pictures=20] [KEY=VALUE ...]
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demos import cli, dataset, formats, pictures, robot
from demos.formats import d4rl
from demos.progress import Progress, of_episodes
from envs.episode import Episode

USAGE = """python -m demos.inspect DIR [out=DIR/inspect] [camera=NAME] [limit=N] [pictures=20] [KEY=VALUE ...]

DIR      folder of demonstrations in any known format, one file, or the folder of a Minari or LeRobot data set
out      folder for contact_sheet.png and demos.gif, which only demonstrations with images have
camera   whose pictures, where there are those of several
task     refuse demonstrations of another task
limit    the first so many episodes only
columns  frames per episode on the contact sheet
fps      environment steps per second of the animation
pictures at most so many episodes are drawn, evenly chosen; the table lists all"""


@dataclass(frozen=True)
class Options:
    """What the command line can set."""

    path: Path
    out: Path | None = None
    camera: str | None = None
    task: str | None = None
    limit: int | None = None
    columns: int = 8
    fps: int = 25
    pictures: int = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv` (the process's arguments by default); returns its exit code."""
    return cli.run(_inspect, Options, argv, USAGE, positional="path")


def _inspect(options: Options) -> None:
    for key in ("columns", "fps", "pictures"):
        if getattr(options, key) < 1:
            raise cli.UsageError(f"{key}={getattr(options, key)}: expected at least 1")
    paths: list[Path] = []
    episodes: list[Episode] = []
    checksums: list[str] = []
    seen: dict[str, tuple[int, ...]] = {}
    images: dict[int, np.ndarray] = {}
    apart = 1
    for path, episode in dataset.stream(
        options.path, task=options.task, limit=options.limit, obs_keys=None, camera=options.camera
    ):
        seen = seen or {key: value.shape[1:] for key, value in episode.obs.items()}
        # Of many episodes only every second, fourth, ... keeps its pictures: nobody knows yet how many there will be.
        if "image" in episode.obs and len(paths) % apart == 0:
            images[len(paths)] = episode.obs["image"]
        if len(images) > 2 * options.pictures:
            apart *= 2
            images = {number: image for number, image in images.items() if number % apart == 0}
        paths.append(path)
        checksums.append(dataset.checksum(episode)[:12])
        episodes.append(dataclasses.replace(_without_foreign_state(episode), obs={}))
    console = Console()
    if not console.is_terminal:
        # Piped into a file or a log there is no window to fit.
        console = Console(width=160)
    known = of_episodes(episodes)
    console.print(_table(paths, episodes, checksums, known))
    for line in _summary(episodes, seen):
        console.print(line, markup=False, highlight=False)
    if not images:
        console.print("no images in these episodes, so no pictures")
        return
    every = np.linspace(0, len(images) - 1, min(options.pictures, len(images))).round().astype(int)
    chosen = {number: images[number] for number in np.array(list(images))[every].tolist()}
    if len(chosen) < len(episodes):
        told = f"in the pictures: {len(chosen)} of {len(episodes)} episodes, evenly chosen; pictures=N takes others"
        console.print(told, markup=False, highlight=False)
    folder = options.path if options.path.is_dir() else options.path.parent
    for written in _pictures(chosen, episodes, known, options.out or folder / "inspect", options):
        console.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)


def _without_foreign_state(episode: Episode) -> Episode:
    """The episode without simulator states that lack the clock, from which an environment judges sub-tasks."""
    return dataclasses.replace(episode, sim_state=None) if "sim_state" in episode.meta else episode


def _table(
    paths: Sequence[Path], episodes: Sequence[Episode], checksums: Sequence[str], known: Sequence[Progress]
) -> Table:
    table = Table()
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold", ratio=1)
    for name in ("format", "task"):
        table.add_column(name, no_wrap=True)
    for name in ("steps", "action min..max", "mean |a|", "KiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("return", justify="right", no_wrap=True)
    table.add_column("ends by", no_wrap=True)
    table.add_column("sub-tasks done: row", ratio=1)
    table.add_column("checksum", no_wrap=True)
    kinds = {path: formats.sniff(path).NAME for path in dict.fromkeys(paths)}
    rows = zip(paths, episodes, checksums, known, strict=True)
    for number, (path, episode, checksum, done) in enumerate(rows, start=1):
        action = episode.action[1:]
        table.add_row(
            str(number),
            escape(path.name),
            kinds[path],
            escape(str(episode.meta.get("task", "-"))),
            str(episode.steps),
            f"{action.min():+.3f}..{action.max():+.3f}",
            f"{np.abs(action).mean():.3f}",
            f"{path.stat().st_size / 1024:.0f}",
            _return(episode),
            escape(_end(episode)),
            escape(done.words()),
            checksum,
        )
    return table


def _return(episode: Episode) -> str:
    """The recorded return, with D4RL's normalised score where it has one; a dash when the file tells none."""
    total, task = episode.meta.get("return"), episode.meta.get("task")
    if not isinstance(total, int | float):
        return "-"
    return f"{total:.1f} ({d4rl.normalised(task, total):.0f} %)" if task in d4rl.REFERENCE else f"{total:.1f}"


def _end(episode: Episode) -> str:
    """What ended the episode: as the file tells, or else as its last row does."""
    return str(episode.meta.get("ends_by", "termination" if episode.is_terminal[-1] else "time limit"))


def _summary(episodes: Sequence[Episode], seen: Mapping[str, tuple[int, ...]]) -> list[str]:
    steps = sum(episode.steps for episode in episodes)
    obs = ", ".join(f"{key} {shape}" for key, shape in seen.items())
    lines = [f"{len(episodes)} episodes, {steps} steps, {episodes[0].action.shape[1]} actions, observations: {obs}"]
    told = Counter(one for episode in episodes for one in dataset.instructions(episode))
    lines += [f"instruction: {one} ({number} episodes)" for one, number in told.items()]
    units = robot.scale(episodes[0].meta.get("robot"))
    if units is not None:
        spans = zip(units["names"], units["low"], units["high"], strict=True)
        lines.append("actions -1 to 1: " + ", ".join(f"{name} {low:g} to {high:g}" for name, low, high in spans))
    notes = {str(note): None for episode in episodes for note in episode.meta.get("notes", ())}
    return lines + [f"note: {note}" for note in notes]


def _pictures(
    images: Mapping[int, np.ndarray],
    episodes: Sequence[Episode],
    known: Sequence[Progress],
    folder: Path,
    options: Options,
) -> list[Path]:
    """Draw the episodes, by their number from 0, of which there are images."""
    dataset.make_folder(folder)
    labels, captions = [], []
    for number in images:
        episode, done = episodes[number], known[number]
        lines = [f"{number + 1:02d}", f"{episode.steps} steps"]
        lines += [f"{count}/{done.total} {row:3d} {name}" for count, (row, name) in enumerate(done.done, start=1)]
        labels.append("\n".join(lines))
        scores = [f"  {done.count(row)}/{done.total}" if done.total else "" for row in range(len(episode))]
        captions.append([f"{number + 1:02d}{score}" for score in scores])
    sheet, film = folder / "contact_sheet.png", folder / "demos.gif"
    shown = list(images.values())
    dataset.write_atomic(sheet, pictures.contact_sheet(shown, labels, options.columns))
    dataset.write_atomic(film, pictures.animation(shown, captions, options.fps))
    return [sheet, film]


if __name__ == "__main__":
    raise SystemExit(main())
