"""Logger: metrics that survive kills and resumes, and what is printed."""

from __future__ import annotations

import errno
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.logger import Logger, read_metrics


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def logger(run: Path, **options: Any) -> Logger:
    """A logger that writes files only, unless told otherwise."""
    return Logger(run, **({"total": 100, "quiet": True} | options))


def test_metrics_come_back_in_order_with_step_and_time(run_dir: Path) -> None:
    with logger(run_dir) as log:
        log.scalars(0, {"loss/model": 3.5})
        log.scalars(10, {"loss/model": np.float32(2.5), "n": 7})
        log.scalars(10, {"bad": float("nan"), "huge": float("inf")})
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines] == [0, 10, 10]
    assert all(line["time"] > 1e9 for line in lines)
    assert lines[1]["loss/model"] == 2.5 and lines[1]["n"] == 7
    assert math.isnan(lines[2]["bad"]) and math.isnan(lines[2]["huge"])
    text = (run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text.splitlines()[2])["bad"] is None


def test_every_line_is_on_disk_at_once(run_dir: Path) -> None:
    log = logger(run_dir)
    log.scalars(1, {"a": 1.0})
    assert len(read_metrics(run_dir)) == 1
    log.close()
    log.close()


def test_resume_drops_what_will_be_done_again(run_dir: Path) -> None:
    with logger(run_dir) as log:
        for step in (10, 20, 30, 40):
            log.scalars(step, {"a": step})
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "ti')  # the kill came in the middle of a line
    assert [line["step"] for line in read_metrics(run_dir)] == [10, 20, 30, 40]
    with logger(run_dir, resume_step=20) as log:
        log.scalars(30, {"a": -1})
    assert [(line["step"], line["a"]) for line in read_metrics(run_dir)] == [(10, 10), (20, 20), (30, -1)]
    assert not list(run_dir.glob("*.tmp"))


def test_resume_by_lines_is_exact_where_many_lines_have_one_step(run_dir: Path) -> None:
    with logger(run_dir) as log:
        log.scalars(0, {"a": 1})
        log.scalars(0, {"a": 2})
        at_checkpoint = log.lines
        log.scalars(0, {"a": 3})
        log.scalars(7, {"a": 4})
    with logger(run_dir, resume_step=0, resume_lines=at_checkpoint) as log:
        assert log.lines == at_checkpoint == 2
        log.scalars(0, {"a": -3})
        assert log.lines == 3
    assert [line["a"] for line in read_metrics(run_dir)] == [1, 2, -3]


def test_a_new_run_in_an_old_folder_sets_the_old_metrics_aside(run_dir: Path) -> None:
    with logger(run_dir) as log:
        log.scalars(10, {"a": 1})
    with logger(run_dir) as log:
        log.scalars(5, {"a": 2})
    assert [line["step"] for line in read_metrics(run_dir)] == [5]
    assert json.loads((run_dir / "metrics.previous.jsonl").read_text())["step"] == 10


def test_damage_in_the_middle_is_named(run_dir: Path) -> None:
    with logger(run_dir) as log:
        log.scalars(1, {"a": 1})
    path = run_dir / "metrics.jsonl"
    path.write_text("oops\n" + path.read_text())
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1 is not JSON"):
        read_metrics(run_dir)


@pytest.mark.parametrize("flushed", [True, False])
def test_a_full_disk_costs_lines_but_not_the_run(
    run_dir: Path, capsys: pytest.CaptureFixture[str], flushed: bool
) -> None:
    log = logger(run_dir)
    log.scalars(1, {"a": 1})
    real = log._file

    class Full:
        """Writes half of what it is given, like a disk that fills up."""

        def tell(self) -> int:
            return real.tell()

        def write(self, text: str) -> None:
            real.write(text[:5])
            if flushed:
                real.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            real.close()

    for step in (2, 3):
        log._file = Full()  # type: ignore[assignment]
        log.scalars(step, {"a": 2})
        real = log._file
    log.scalars(4, {"a": 4})
    log.close()
    assert [line["step"] for line in read_metrics(run_dir)] == [1, 4]
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_tensorboard_has_the_same_numbers_and_forgets_what_is_redone(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logger(run_dir) as log:
        for step in (10, 20, 30):
            log.scalars(step, {"a": float(step)})
    for path in (run_dir / "tensorboard").iterdir():  # files are read in the order of the seconds in their names
        path.rename(path.with_name("events.out.tfevents.1000000000.host.1.0"))
    with logger(run_dir, resume_step=20) as log:
        log.scalars(25, {"a": 25.0})
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(10, 10), (20, 20), (25, 25)]


def test_importing_the_logger_does_not_import_tensorboard(root: Path) -> None:
    code = "import sys, agent.logger; sys.exit('tensorboard' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_videos_are_files_and_awkward_names_are_made_safe(run_dir: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 17, 3), np.uint8)
    with logger(run_dir) as log:
        path = log.video("eval/open loop", 1200, frames, fps=10)
    assert path == run_dir / "videos" / "eval_open_loop-000001200.gif" and path.stat().st_size > 100


def test_plain_lines_every_half_minute(run_dir: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    log = logger(run_dir, total=1000, quiet=False, clock=clock, stream=stream)
    for second in range(0, 61):
        clock.now = float(second)
        log.progress(second * 10, updates=second * 4, score="1.00 of 4", phase="training", reward=1.23456)
    lines = stream.getvalue().splitlines()
    rates = "training  10 env steps/s  4 updates/s  score 1.00 of 4  reward 1.235"
    assert lines == [
        f"step 300/1000  elapsed 0:00:30  left 0:01:10  {rates}",
        f"step 600/1000  elapsed 0:01:00  left 0:00:40  {rates}",
    ]


def test_time_is_left_before_the_first_environment_step_too(run_dir: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    log = logger(run_dir, total=1000, quiet=False, clock=clock, stream=stream)
    for second in range(0, 31):
        clock.now = float(second)
        log.progress(0, updates=second * 4, updates_left=1000 - second * 4)
    assert "left 0:03:40" in stream.getvalue(), "880 updates at 4 a second"


def test_the_phase_is_shown_only_while_it_is_named(run_dir: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    log = logger(run_dir, quiet=False, clock=clock, stream=stream, every=1)
    for second, phase in ((1, "evaluating"), (2, "")):
        clock.now = float(second)
        log.progress(0, score="0.50", **({"phase": phase} if phase else {}))
    first, second_line = stream.getvalue().splitlines()
    assert "evaluating" in first and "evaluating" not in second_line and "score 0.50" in second_line


def test_rates_follow_the_last_half_minute_and_start_at_the_resumed_step(run_dir: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    log = logger(run_dir, total=10_000, quiet=False, clock=clock, stream=stream, resume_step=5000, every=60)
    for second in range(0, 121):
        clock.now = float(second)
        log.progress(5000 + (second if second <= 60 else 60 + (second - 60) * 20), updates=0)
    first, second_line = stream.getvalue().splitlines()
    assert "step 5060/10000" in first and " 1 env steps/s" in first
    assert " 20 env steps/s" in second_line and "left 0:03:07" in second_line


def test_the_bar_shows_counts_times_rates_and_the_score(run_dir: Path) -> None:
    clock, stream = Clock(), Terminal()
    with logger(run_dir, total=1000, quiet=False, clock=clock, stream=stream) as log:
        for second in range(5):
            clock.now = float(second)
            log.progress(second * 100, updates=second * 40, score="0.50")
        log.note("a note [with] brackets")
    text = stream.getvalue()
    for part in (
        "400/1000",
        "left 0:00:06",
        "100 env steps/s",
        "40 updates/s",
        "score 0.50",
        "a note [with] brackets",
    ):
        assert part in text


def test_the_bar_of_a_resumed_run_starts_where_it_stopped(run_dir: Path) -> None:
    stream = Terminal()
    logger(run_dir, total=1000, quiet=False, stream=stream, resume_step=500).close()
    assert "500/1000" in stream.getvalue()


def test_notes_are_printed_and_kept(run_dir: Path) -> None:
    stream = io.StringIO()
    with logger(run_dir, quiet=False, stream=stream) as log:
        log.note("size=auto: small, because there is no GPU")
    with logger(run_dir, quiet=True, stream=stream) as log:
        log.note("second")
    assert stream.getvalue() == "size=auto: small, because there is no GPU\n"
    kept = (run_dir / "log.txt").read_text().splitlines()
    assert len(kept) == 2 and kept[1].endswith(" second")


def test_quiet_prints_nothing(run_dir: Path) -> None:
    stream, clock = Terminal(), Clock()
    with logger(run_dir, quiet=True, stream=stream, clock=clock) as log:
        clock.now = 100.0
        log.progress(10, updates=3)
    assert stream.getvalue() == ""
