"""Intervals: the bootstrap of means and Wilson's of rates."""

from __future__ import annotations

import numpy as np
import pytest

from agent.collect import Trace
from agent.score import mean_interval, rate_interval, summarise


def trace(score: float, done: list[float], steps: int = 5) -> Trace:
    obs = [np.zeros(1, np.float32)] * (steps + 1)
    return Trace(
        seed=0,
        obs=obs,
        action=[np.zeros(1, np.float32)] * (steps + 1),
        score=score,
        success=all(done),
        rewards=[0.0, 0.5 * score, 1.5 * score],
        tasks_done=np.array(done, np.float32),
    )


def test_wilson_interval_has_its_known_values() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        rate, found_low, found_high = rate_interval(successes, n)
        assert rate == successes / n
        assert (found_low, found_high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_rates_of_zero_and_one_keep_an_honest_interval(n: int) -> None:
    rate, low, high = rate_interval(n, n)
    assert rate == high == 1.0 and 0 < low < 1
    assert rate_interval(0, n) == pytest.approx((0.0, 0.0, 1 - low))


def test_bootstrap_interval_of_a_mean() -> None:
    x = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = mean_interval(x)
    assert mean == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((x.mean() - 1.96 * 0.1, x.mean() + 1.96 * 0.1), abs=0.03)
    assert mean_interval(x) == (mean, low, high), "reports are reproducible"
    assert mean_interval([2.0]) == (2.0, 2.0, 2.0)


def test_no_episodes_is_an_error() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        mean_interval([])
    with pytest.raises(ValueError, match="no episodes"):
        rate_interval(0, 0)


def test_summary_counts_tasks_and_successes() -> None:
    traces = [trace(2, [1, 1]), trace(1, [0, 1], steps=3), trace(1, [0, 1]), trace(0, [0, 0])]
    found = summarise(traces, ["kettle", "microwave"])
    assert found["episodes"] == 4 and found["score"][0] == 1.0 and found["return"] == 2.0
    assert found["length"] == pytest.approx(4.5)
    assert found["success"] == rate_interval(1, 4)
    assert found["tasks"] == {"kettle": rate_interval(1, 4), "microwave": rate_interval(3, 4)}


def test_a_task_s_own_measures_are_averaged() -> None:
    traces = [trace(1.0, [1.0]), trace(0.0, [0.0])]
    assert summarise(traces, ["turn"])["measures"] == {}
    for one, error in zip(traces, (0.5, 1.5), strict=True):
        one.measures = {"error": error}
    assert summarise(traces, ["turn"])["measures"] == {"error": mean_interval([0.5, 1.5])}
