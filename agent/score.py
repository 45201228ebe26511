"""From episodes to numbers with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from agent.collect import Trace


def mean_interval(values: Sequence[float], *, draws: int = 2000) -> tuple[float, float, float]:
    """Mean and 95 % percentile-bootstrap interval over episodes (fixed resampling seed, so a report is
    reproducible).
    """
    x = np.asarray(values, np.float64)
    if len(x) == 0:
        raise ValueError("no episodes to average")
    means = x[np.random.default_rng(0).integers(0, len(x), (draws, len(x)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(x.mean()), float(low), float(high)


def rate_interval(successes: int, n: int) -> tuple[float, float, float]:
    """Rate and its 95 % Wilson score interval (honest at 0 and 1, where the bootstrap is not)."""
    if n == 0:
        raise ValueError("no episodes to count")
    z, p = 1.959964, successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return p, max(0.0, min(low, p)), min(1.0, max(high, p))


def summarise(traces: Sequence[Trace], subtasks: Sequence[str]) -> dict[str, Any]:
    """score: tasks solved (mean), success: all of them (rate), one rate per subtask, the mean of each of the task's own
    measures; each as [value, low, high].
    """
    n = len(traces)
    out: dict[str, Any] = {
        "episodes": n,
        "score": mean_interval([t.score for t in traces]),
        "success": rate_interval(sum(t.success for t in traces), n),
        "length": float(np.mean([t.steps for t in traces])),
        "return": float(np.mean([t.reward for t in traces])),
        "tasks": {},
        "measures": {name: mean_interval([t.measures[name] for t in traces]) for name in traces[0].measures},
    }
    for i, name in enumerate(subtasks):
        out["tasks"][name] = rate_interval(int(sum(t.tasks_done[i] for t in traces)), n)
    return out
