"""Where a run tells what it does: metrics.jsonl, TensorBoard events, videos, log.txt, and a progress bar.

metrics.jsonl has one JSON object a line with "step" (environment steps), "time" (unix seconds) and numbers; NaN and
infinity are written as null. Every other file can be lost without losing a number.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agent import video as videos
from demos.dataset import write_atomic

METRICS = "metrics.jsonl"


class Logger:
    """Log one run.

    Args:
        run: run folder; made if missing.
        total: environment steps that the run will do (0 when it does none; then the bar has no end).
        quiet: write files only, print nothing.
        resume_step: step of the checkpoint that the run continues from; what was logged after it is dropped, because it
            will be done again. None: a new run; an older metrics.jsonl is set aside as metrics.previous.jsonl.
        resume_lines: `lines` at that checkpoint. Exact where many lines have one step, as in pre-training; without it,
            lines of `resume_step` itself are kept.
        stream: where to print; a progress bar when it is a terminal, else a line every `every` seconds.
        clock: seconds, for rates and time left.
    """

    def __init__(
        self,
        run: Path,
        *,
        total: int,
        quiet: bool = False,
        resume_step: int | None = None,
        resume_lines: int | None = None,
        stream: TextIO | None = None,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.total = Path(run), total
        self._stream, self._quiet, self._every, self._clock = stream or sys.stdout, quiet, every, clock
        self._start_step = resume_step or 0
        self._purge = -1 if resume_step is None else resume_step
        self.run.mkdir(parents=True, exist_ok=True)
        self.lines = _rewind(self.run / METRICS, resume_step, resume_lines)  # in metrics.jsonl; belongs in checkpoints
        self._file = open(self.run / METRICS, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        self._writer: Any = None
        self._rates = _Rates(clock, self._start_step)
        self._last_line = clock()
        self._bar = self._make_bar() if not quiet and self._stream.isatty() else None
        self._lost: set[str] = set()

    # ------------------------------------------------------------------ numbers

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl and the same numbers to TensorBoard."""
        values = {name: float(value) for name, value in metrics.items()}
        line: dict[str, float | None] = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append(json.dumps(line) + "\n")
        self._events(lambda writer: [writer.add_scalar(name, value, step) for name, value in values.items()])

    def _append(self, line: str) -> None:
        size = self._file.tell()
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._report(METRICS, error)
            self._reopen(size)
        else:
            self.lines += 1

    def _reopen(self, size: int) -> None:
        """Drop the half-written line; closing comes first, because it writes what the file object still buffers."""
        with contextlib.suppress(OSError):
            self._file.close()
        os.truncate(self.run / METRICS, size)
        self._file = open(self.run / METRICS, "a", encoding="utf-8")  # noqa: SIM115

    def _events(self, write: Callable[[Any], Any]) -> None:
        """Let `write` add to the TensorBoard events, unless they have been given up."""
        if "tensorboard" in self._lost:
            return
        try:
            if self._writer is None:
                # Imported late: a run that fails in its first second should not wait for it.
                from torch.utils.tensorboard import SummaryWriter

                _leave_to_the_caller()
                self._writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self._purge + 1, flush_secs=30)
            write(self._writer)
        except OSError as error:
            self._report("tensorboard", error)
            self._writer = None

    def _report(self, name: str, error: OSError) -> None:
        """Say once that a file is lost. It must not end a run: a checkpoint on the same disk will say what is wrong."""
        if name not in self._lost:
            self._lost.add(name)
            text = f"cannot write {self.run / name}: {error.strerror or error}; what belongs there is being lost"
            print(text, file=sys.stderr)

    # ------------------------------------------------------------------ pictures and words

    def video(self, name: str, step: int, frames: np.ndarray, fps: float = 20.0) -> Path:
        """Write (T, H, W, 3) uint8 frames to videos/NAME-STEP.gif, and .mp4 if ffmpeg is there; returns the former."""
        stem = self.run / "videos" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}-{step:09d}"
        path = stem.with_name(stem.name + ".gif")
        try:
            videos.write_gif(path, frames, fps)
            videos.write_mp4(stem.with_name(stem.name + ".mp4"), frames, fps)
        except OSError as error:
            path.with_name(f"tmp-{path.name}").unlink(missing_ok=True)
            self._report("videos", error)
        return path

    def note(self, text: str, *, shown: bool = True) -> None:
        """Print a line (above the bar), unless quiet or not to be ``shown``, and append it to log.txt."""
        try:
            with open(self.run / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            self._report("log.txt", error)
        if self._quiet or not shown:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    # ------------------------------------------------------------------ progress

    def progress(
        self,
        step: int,
        *,
        updates: int | None = None,
        updates_left: float | None = None,
        score: str | None = None,
        phase: str = "",
        **fields: float | str,
    ) -> None:
        """Refresh the bar (or, every 30 s, print a line).

        Args:
            step: environment steps done so far.
            updates: gradient steps done so far.
            updates_left: gradient steps until the end; the time left is theirs where updates are being made, as before
                the first environment step, else that of the environment steps.
            score: of the last evaluation.
            phase: what is going on now, such as "pre-training"; unlike the others not remembered.
            fields: shown as they are.
        """
        self._rates.update(step, updates, score, phase, updates_left)
        if self._quiet:
            return
        if self._bar is not None:
            text = self._rates.text(self.total, fields)
            self._bar.update(self._task, completed=step, text=text, left=self._rates.left(self.total))
        elif self._clock() - self._last_line >= self._every:
            self._last_line = self._clock()
            done = f"{step}/{self.total}" if self.total else str(step)
            times = f"elapsed {_duration(self._rates.elapsed())}  left {self._rates.left(self.total)}"
            print(f"step {done}  {times}  {self._rates.text(self.total, fields)}", file=self._stream, flush=True)

    def _make_bar(self) -> Progress:
        columns = (
            TextColumn("{task.completed:.0f}/{task.total}" if self.total else "{task.completed:.0f}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("{task.fields[text]}", markup=False),
        )
        bar = Progress(*columns, console=Console(file=self._stream), refresh_per_second=4)
        self._task = bar.add_task("", total=self.total or None, completed=self._start_step, text="", left="?")
        bar.start()
        return bar

    def close(self) -> None:
        """Flush and close everything; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None
        self._file.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _leave_to_the_caller() -> None:
    """TensorBoard's thread keeps its error and raises it at the next call; without this it prints a traceback, too."""
    print_it = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        ours = type(args.thread).__module__.startswith("tensorboard")
        if not (ours and isinstance(args.exc_value, OSError)):
            print_it(args)

    threading.excepthook = hook


class _Rates:
    """Steps and updates a second over the last half minute, and the time left."""

    WINDOW = 30.0

    def __init__(self, clock: Callable[[], float], step: int) -> None:
        self._clock, self._begin = clock, clock()
        self._marks: list[tuple[float, int, int]] = []
        self._step, self._updates = step, 0
        self._score: str | None = None
        self._updates_left: float | None = None
        self._phase = ""

    def update(
        self, step: int, updates: int | None, score: str | None, phase: str, updates_left: float | None = None
    ) -> None:
        now = self._clock()
        self._step, self._updates_left = step, updates_left
        self._updates = self._updates if updates is None else updates
        self._score = self._score if score is None else score
        self._phase = phase
        if not self._marks or now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, step, self._updates))
        while len(self._marks) > 2 and now - self._marks[1][0] > self.WINDOW:
            self._marks.pop(0)

    def elapsed(self) -> float:
        return self._clock() - self._begin

    def per_second(self) -> tuple[float, float]:
        then, step, updates = self._marks[0]
        seconds = self._clock() - then
        if seconds <= 0:
            return 0.0, 0.0
        return (self._step - step) / seconds, (self._updates - updates) / seconds

    def left(self, total: int) -> str:
        rate, updates = self.per_second() if self._marks else (0.0, 0.0)
        if self._updates_left is not None and updates > 0:
            return _duration(self._updates_left / updates)
        return _duration((total - self._step) / rate) if rate > 0 and total else "?"

    def text(self, total: int, fields: Mapping[str, float | str]) -> str:
        steps, updates = self.per_second()
        parts = [f"{steps:.3g} env steps/s", f"{updates:.3g} updates/s"]
        parts += [f"score {self._score}"] if self._score is not None else []
        parts += [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in fields.items()]
        return "  ".join(([self._phase] if self._phase else []) + parts)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _rewind(path: Path, resume_step: int | None, resume_lines: int | None) -> int:
    """Leave what had been logged at the checkpoint (atomically), or set the file aside when a new run starts."""
    if not path.exists():
        return 0
    if resume_step is None:
        os.replace(path, path.with_name("metrics.previous.jsonl"))
        return 0
    kept = [line for line in _parse(path)[:resume_lines] if line["step"] <= resume_step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return len(kept)


def _parse(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):  # the last line may be cut off by a kill; any other damage is not ours
                raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
    return parsed


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of RUN/metrics.jsonl in order; null becomes NaN; a cut-off last line is ignored.

    Raises:
        FileNotFoundError: the run has no metrics. ValueError: a line in the middle is damaged.
    """
    lines = _parse(Path(run) / METRICS)
    return [{key: math.nan if value is None else value for key, value in line.items()} for line in lines]
