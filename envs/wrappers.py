"""What may happen to an action between the policy and the simulator."""

from __future__ import annotations

import gymnasium
import numpy as np

from envs.errors import EnvError


def check_tremble(task: str, probability: float) -> float:
    """Return `probability` as a float; EnvError, naming `task`, unless it lies in [0, 1]."""
    if isinstance(probability, bool) or not 0.0 <= probability <= 1.0:
        raise EnvError(f"{task}: tremble must be a probability, 0 to 1, got {probability}")
    return float(probability)


def trembled(
    action: np.ndarray, probability: float, space: gymnasium.spaces.Box, generator: np.random.Generator
) -> np.ndarray:
    """Return the action that the trembling hand executes (HyPE, experiments; algorithms 3.5).

    Args:
        action: what the policy asked for, (A,).
        probability: how often a uniform action of the box replaces it; at 0 the generator is left alone.
        space: the bounded action box.
        generator: the environment's own, so that a seed decides when and how the hand trembles.
    """
    if probability > 0.0 and generator.random() < probability:
        return generator.uniform(space.low, space.high)
    return action
