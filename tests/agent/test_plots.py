"""Figures and benchmark tables from metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from agent import plots
from agent.plots import Row


def write_run(run: Path, lines: list[dict[str, Any]]) -> Path:
    """A run folder with these metrics."""
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | {"time": 0}) + "\n" for line in lines))
    return run


def full_run(run: Path, scale: float = 1.0) -> Path:
    """A run with every metric that the figures know."""
    lines = []
    for step in range(0, 1000, 50):
        lines.append(
            {"step": step, "loss/model": 1e4 - step, "train/loss/reward": 1.0, "diag/disc_gap": 1 - step / 1000}
        )
        lines.append({"step": step, "diag/u_model": 0.2, "diag/u_data": None, "diag/return_gap": 4 - step / 250})
        success = scale * step / 1000
        band = {"eval/success_mode_low": success - 0.1, "eval/success_mode_high": success + 0.1}
        lines.append({"step": step, "eval/success_mode": success, "eval/success_sampled": success / 2} | band)
        lines.append({"step": step, "eval/score_mode": 4 * success, "train/score": success})
    return write_run(run, lines)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    real = plots._save

    def save(figure: Figure, path: Path) -> Path:
        saved.append(figure)
        return real(figure, path)

    monkeypatch.setattr(plots, "_save", save)
    return saved


def labels(figure: Figure) -> list[list[str]]:
    """Labelled curves of each panel."""
    return [[str(line.get_label()) for line in a.lines if str(line.get_label())[0] != "_"] for a in figure.axes]


def test_series_skips_missing_and_null() -> None:
    lines = [{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": math.nan}, {"step": 3, "a": 2.0}]
    steps, values = plots.series(lines, "a")
    assert steps.tolist() == [0, 3] and values.tolist() == [1, 2]


def test_smoothing_starts_unbiased_and_keeps_constants() -> None:
    assert plots.smooth(np.full(20, 3.0)) == pytest.approx(np.full(20, 3.0))
    assert plots.smooth(np.array([5.0, 1.0]))[0] == 5.0


def test_curves_show_success_with_its_band_losses_gap_and_disagreement(tmp_path: Path, figures: list[Figure]) -> None:
    run = full_run(tmp_path / "run")
    assert plots.curves(run) == run / "curves.png"
    assert Image.open(run / "curves.png").size[0] > 600
    assert labels(figures[0]) == [
        ["eval/success_mode", "eval/success_sampled"],
        ["eval/score_mode", "train/score"],
        ["loss/model", "train/loss/reward"],
        ["diag/disc_gap"],
        ["diag/u_model"],  # the other one is null throughout
        ["diag/return_gap"],
    ]
    assert len(figures[0].axes[0].collections) == 1, "one interval band: only eval/success_mode has bounds"


def test_long_curves_are_smoothed_and_short_ones_are_not(tmp_path: Path, figures: list[Figure]) -> None:
    for n in (50, 51):
        run = write_run(tmp_path / str(n), [{"step": i, "diag/disc_gap": float(i % 2)} for i in range(n)])
        plots.theorem2(run)
    short, long = (figure.axes[0].lines for figure in figures)
    assert len(short) == 1 and set(np.asarray(short[0].get_ydata())) == {0.0, 1.0}
    assert len(long) == 2 and 0.4 < np.asarray(long[1].get_ydata())[-1] < 0.6


def test_theorem2_has_three_panels_and_says_what_is_missing(tmp_path: Path, figures: list[Figure]) -> None:
    plots.theorem2(full_run(tmp_path / "run"))
    assert labels(figures[0]) == [["diag/disc_gap"], ["diag/u_model"], ["diag/return_gap"]]
    bare = write_run(tmp_path / "bare", [{"step": 1, "loss/model": 2.0}])
    assert plots.theorem2(bare).exists() and plots.curves(bare).exists()
    notes = [axis.texts[0].get_text() for axis in figures[1].axes]
    assert notes == ["not logged: " + k for k in ("diag/disc_gap", "diag/u_model, diag/u_data", "diag/return_gap")]
    assert labels(figures[2])[2] == ["loss/model"]


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert plots.iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == 3.5
    assert plots.iqm(np.array([1.0, 5.0])) == 3.0
    low, high = plots.bootstrap(np.random.default_rng(0).normal(2, 1, 200))
    assert 1.6 < low < 2 < high < 2.4
    assert plots.bootstrap(np.arange(5.0)) == plots.bootstrap(np.arange(5.0))


def test_compare_joins_seeds_under_one_label(tmp_path: Path, figures: list[Figure]) -> None:
    seeds = [full_run(tmp_path / f"s{i}", scale) for i, scale in enumerate((0.5, 1.0))]
    one = full_run(tmp_path / "other", 0.2)
    out = plots.compare({"cmil": seeds, "bc": [one]}, tmp_path / "figures" / "x.png")
    assert Image.open(out).size[0] > 300
    assert labels(figures[0]) == [["cmil (2)", "bc (1)"]]
    lines = figures[0].axes[0].lines
    assert lines[0].get_ydata()[-1] == pytest.approx(4 * 0.75 * 0.95)  # type: ignore[index]
    assert len(figures[0].axes[0].collections) == 1, "no interval from a single run"
    with pytest.raises(ValueError, match="other: no values of eval/nothing"):
        plots.compare({"bc": [one]}, out, metric="eval/nothing")


def test_benchmark_table_replaces_the_same_seed_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "cmil" / "kitchen-pixels.csv"
    run = write_run(
        tmp_path / "run", [{"step": 5, "eval/score_mode": 0.1}, {"step": 10, "eval/score_mode": 0.30000000000000004}]
    )
    rows = plots.benchmark_rows(run, seed=1, hardware="2 cores, no GPU")
    plots.write_csv(path, rows)
    assert path.read_text().splitlines()[:2] == [
        "step,metric,value,seed,hardware",
        '5,eval/score_mode,0.1,1,"2 cores, no GPU"',
    ]
    other: list[Row] = [(7, "eval/score_mode", 0.5, 0, "H200")]
    plots.write_csv(path, other)
    newer: list[Row] = [(20, "eval/score_mode", 0.9, 1, "2 cores, no GPU")]
    plots.write_csv(path, newer)
    assert plots.read_csv(path) == newer + other
    plots.write_csv(path, rows)
    assert plots.read_csv(path) == rows + other, "floats come back exactly"
    with pytest.raises(ValueError, match="no values of eval/x"):
        plots.benchmark_rows(run, seed=1, hardware="", metrics=["eval/x"])
    path.write_text("step,value\n1,2\n")
    with pytest.raises(ValueError, match="columns must be step,metric,value,seed,hardware"):
        plots.write_csv(path, rows)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = full_run(tmp_path / "run")
    assert plots.main([f"run={run}"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "curves": str(run / "curves.png"),
        "theorem2": str(run / "theorem2.png"),
    }
    assert plots.main([f"run={tmp_path / 'nothing'}"]) == 1
    assert "nothing: run: no such run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert plots.main([f"run={tmp_path / 'empty'}"]) == 1
    assert "metrics.jsonl" in capsys.readouterr().err
    assert plots.main([]) == 1 and plots.main(["runs=x"]) == 1
    assert "did you mean 'run'" in capsys.readouterr().err
