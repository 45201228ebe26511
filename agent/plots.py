"""Figures and benchmark tables from metrics.jsonl: `python -m agent.plots run=DIR`.

Figures are made with matplotlib's object interface: no display, no global state, safe inside a training process.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agent.logger import read_metrics
from demos import cli
from demos.dataset import write_atomic
from demos.errors import DemoError

DISC_GAP = ("diag/disc_gap",)
DISAGREEMENT = ("diag/u_model", "diag/u_data")
RETURN_GAP = ("diag/return_gap",)
SCORE = "eval/score_mode"
LOW, HIGH = "_low", "_high"
MANY = 50  # points; from here on curves are smoothed

Lines = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """One metric over environment steps, finite values only."""

    step: np.ndarray  # (n,) int64
    value: np.ndarray  # (n,) float64


def series(lines: Lines, key: str) -> Series:
    """The finite values of `key`, in the order they were logged; empty when there is none."""
    found = [(line["step"], line[key]) for line in lines if key in line and np.isfinite(line[key])]
    return Series(np.array([s for s, _ in found], np.int64), np.array([v for _, v in found], np.float64))


def smooth(values: np.ndarray, weight: float = 0.9) -> np.ndarray:
    """Exponential moving average (n,) -> (n,), unbiased at the start."""
    total = norm = 0.0
    out = np.empty(len(values))
    for i, value in enumerate(values):
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out[i] = total / norm
    return out


# ---------------------------------------------------------------------- one run


def curves(run: Path) -> Path:
    """Success and score with their intervals, losses, and the terms of Theorem 2 over environment steps.

    Draws RUN/curves.png from every eval/success..., eval/score... (bounds: the same key and _low, _high), loss/..., and
    the diag/... keys at the top of this file; a panel without data says so.
    """
    lines = read_metrics(run)
    keys = sorted({key for line in lines for key in line if not key.endswith((LOW, HIGH))})
    success = [k for k in keys if k.startswith("eval/success")]
    score = [k for k in keys if k.startswith("eval/score") or k == "train/score"]
    losses = [k for k in keys if k.startswith("loss/") or "/loss/" in k]
    figure = Figure(figsize=(16, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    _panel(axes[0, 0], lines, success, "success: share of episodes", "not logged: eval/success...")
    axes[0, 0].set_ylim(-0.02, 1.02)
    _panel(axes[0, 1], lines, score, "score", "not logged: eval/score...")
    _panel(axes[0, 2], lines, losses, "losses", "not logged: loss/...")
    if losses:
        axes[0, 2].set_yscale("symlog")
    _theorem_panel(axes[1, 0], lines, DISC_GAP, "discriminator gap")
    _theorem_panel(axes[1, 1], lines, DISAGREEMENT, "ensemble disagreement")
    _theorem_panel(axes[1, 2], lines, RETURN_GAP, "return of expert minus policy")
    figure.suptitle(Path(run).name)
    return _save(figure, Path(run) / "curves.png")


def theorem2(run: Path) -> Path:
    """What CMIL's Theorem 2 bounds, and its two terms, over environment steps (CMIL Fig. 3) -> RUN/theorem2.png."""
    lines = read_metrics(run)
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    _theorem_panel(axes[0], lines, DISC_GAP, "discriminator gap (first term)")
    _theorem_panel(axes[1], lines, DISAGREEMENT, "ensemble disagreement (second term)")
    _theorem_panel(axes[2], lines, RETURN_GAP, "return of expert minus policy (what they bound)")
    return _save(figure, Path(run) / "theorem2.png")


def _theorem_panel(axis: Axes, lines: Lines, keys: Sequence[str], title: str) -> None:
    _panel(axis, lines, keys, title, f"not logged: {', '.join(keys)}")


def _panel(axis: Axes, lines: Lines, keys: Sequence[str], title: str, missing: str) -> None:
    """Plot the keys that have values, with their intervals: few points as they are, many under their moving average."""
    axis.set_title(title)
    axis.set_xlabel("environment steps")
    axis.grid(alpha=0.3)
    drawn = 0
    for key in keys:
        x, y = series(lines, key)
        if not len(x):
            continue
        colour = f"C{drawn % 10}"
        drawn += 1
        if len(x) <= MANY:
            axis.plot(x, y, color=colour, marker=".", label=key)
        else:
            axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(x, smooth(y), color=colour, label=key)
        low, high = series(lines, key + LOW), series(lines, key + HIGH)
        if len(low.step) == len(high.step) == len(x):
            axis.fill_between(x, low.value, high.value, color=colour, alpha=0.2, linewidth=0)
    if drawn:
        axis.legend(fontsize="small")
    else:
        axis.text(0.5, 0.5, missing, ha="center", va="center", transform=axis.transAxes, color="grey", wrap=True)


# ---------------------------------------------------------------------- several runs


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over axis 0 (algorithms 1.8): the mean of the middle half, whole values; (n, ...) -> (...)."""
    ordered = np.sort(values, axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)


def bootstrap(values: np.ndarray, resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of the IQM over axis 0 (seeds); always the same for the same values."""
    rng = np.random.default_rng(0)
    draws = np.stack([iqm(values[rng.integers(0, len(values), len(values))]) for _ in range(resamples)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return low, high


def compare(
    runs: Mapping[str, Sequence[Path]], out: Path, metric: str = SCORE, points: int = 100, x: str = "environment steps"
) -> Path:
    """One curve a label: the IQM over its runs (seeds), with the 95 % bootstrap interval from two runs on.

    Args:
        runs: label -> run folders. Curves are interpolated linearly to `points` steps that all runs of a label reach.
        x: what a step is: updates, where no environment is stepped.
    Raises:
        ValueError: a run has no values of `metric`.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for i, (label, folders) in enumerate(runs.items()):
        found = [series(read_metrics(folder), metric) for folder in folders]
        for folder, one in zip(folders, found, strict=True):
            if not len(one.step):
                raise ValueError(f"{folder}: no values of {metric} in metrics.jsonl")
        grid = np.linspace(max(s.step[0] for s in found), min(s.step[-1] for s in found), points)
        values = np.stack([np.interp(grid, s.step, s.value) for s in found])
        axis.plot(grid, iqm(values), color=f"C{i % 10}", label=f"{label} ({len(found)})")
        if len(found) > 1:
            axis.fill_between(grid, *bootstrap(values), color=f"C{i % 10}", alpha=0.2, linewidth=0)
    axis.set_xlabel(x)
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, Path(out))


# ---------------------------------------------------------------------- benchmark tables

COLUMNS = ("step", "metric", "value", "seed", "hardware")
Row = tuple[int, str, float, int, str]


def benchmark_rows(run: Path, *, seed: int, hardware: str, metrics: Sequence[str] = (SCORE,)) -> list[Row]:
    """Every finite value of the metrics of one run, for `write_csv`. Raises ValueError when a metric has none."""
    lines = read_metrics(run)
    rows: list[Row] = []
    for metric in metrics:
        step, value = series(lines, metric)
        if not len(step):
            raise ValueError(f"{run}: no values of {metric} in metrics.jsonl")
        rows += [(int(s), metric, float(v), seed, hardware) for s, v in zip(step, value, strict=True)]
    return rows


def read_csv(path: Path) -> list[Row]:
    """Rows of a benchmark table. Raises ValueError when the columns are others."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != COLUMNS:
            raise ValueError(f"{path}: columns must be {','.join(COLUMNS)}")
        return [(int(s), metric, float(v), int(seed), hardware) for s, metric, v, seed, hardware in reader]


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Put rows into a benchmark table, atomically; rows of the same metric, seed and hardware are replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {(metric, seed, hardware) for _, metric, _, seed, hardware in rows}
    kept = [row for row in read_csv(path) if (row[1], row[3], row[4]) not in new] if path.exists() else []
    every = sorted([*kept, *rows], key=lambda row: (row[1], row[4], row[3], row[0]))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *every])
    write_atomic(path, table.getvalue().encode())
    return path


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomic(path, picture.getvalue())
    return path


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    """

    run: Path


def draw(options: Options) -> None:
    """Draw both figures of a run and print their paths as JSON. Raises DemoError, OSError, ValueError."""
    if not options.run.is_dir():
        raise DemoError(options.run, "run", "no such run folder")
    print(json.dumps({"curves": str(curves(options.run)), "theorem2": str(theorem2(options.run))}))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    usage = cli.explained("python -m agent.plots run=DIR", Options)
    return cli.run(draw, Options, argv, usage, program="agent.plots", errors=(OSError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
