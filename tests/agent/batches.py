"""Four transitions for the off-policy optimisers: one ends, one does not count."""

from __future__ import annotations

import torch

from agent.policy.base import ClonePairs
from models.latent import Transitions
from tests.models.tiny import numbers

F, A, N = 3, 2, 4
PAIRS = Transitions(
    numbers(N, F),
    numbers(N, A, seed=1).tanh(),
    numbers(N, F, seed=2),
    torch.tensor([0.0, 1.0, 0.0, 0.0]),
    torch.tensor([1.0, 1.0, 1.0, 0.0]),
)
REWARD = numbers(N, seed=3)
CLONE = ClonePairs(numbers(N, F, seed=4), numbers(N, A, seed=5).tanh(), torch.tensor([1.0, 1.0, 0.0, 1.0]))
