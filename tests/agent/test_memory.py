"""Imagined transitions between updates: a ring whose rows belong together."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from agent.memory import TransitionMemory
from models.latent import Transitions


def add(memory: TransitionMemory, first: int, n: int) -> None:
    """Transition i: feat i, action 10 i, next i + 1, done where i is a multiple of 5, u 100 + i."""
    i = torch.arange(first, first + n, dtype=torch.float32)
    memory.add(i[:, None], 10 * i[:, None], i[:, None] + 1, (i % 5 == 0), 100 + i)


def test_rows_stay_together_and_the_oldest_go_first() -> None:
    memory = TransitionMemory(1, 1, 8)
    add(memory, 0, 5)
    assert memory.filled == 5
    add(memory, 5, 6)
    assert memory.filled == 8
    torch.manual_seed(0)
    pairs, u = memory.sample(4000)
    i = pairs.feat[:, 0]
    assert set(i.tolist()) == set(range(3, 11)), "the newest eight of eleven"
    assert torch.equal(pairs.action[:, 0], 10 * i) and torch.equal(pairs.next_feat[:, 0], i + 1)
    assert torch.equal(pairs.done, (i % 5 == 0).float()) and torch.equal(u, 100 + i)
    assert bool((pairs.weight == 1).all())
    assert chisquare(torch.bincount(i.long(), minlength=11)[3:]).pvalue > 1e-3


def test_more_than_fits_leaves_the_last() -> None:
    memory = TransitionMemory(1, 1, 4)
    add(memory, 0, 2)
    add(memory, 2, 11)
    assert sorted(memory.feat[:, 0].tolist()) == [9, 10, 11, 12]
    add(memory, 13, 1)
    assert sorted(memory.feat[:, 0].tolist()) == [10, 11, 12, 13], "the head goes on where it was"


def test_a_checkpoint_holds_everything() -> None:
    memory, other = TransitionMemory(1, 1, 8), TransitionMemory(1, 1, 8)
    add(memory, 0, 11)
    other.load_state_dict(memory.state_dict())
    add(memory, 20, 3)
    add(other, 20, 3)
    torch.manual_seed(1)
    a, _ = memory.sample(50)
    torch.manual_seed(1)
    b, _ = other.sample(50)
    assert torch.equal(a.feat, b.feat) and other.filled == 8


def test_nothing_waits_for_the_device_to_say_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers on a device come with a wait; those of a memory that was loaded are read once."""
    memory = TransitionMemory(1, 1, 8)
    add(memory, 0, 11)
    other = TransitionMemory(1, 1, 8)
    other.load_state_dict(memory.state_dict())

    def asked(self: torch.Tensor, *_: object) -> None:
        raise AssertionError("a tensor was read")

    for name in ("tolist", "item", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    for one in (memory, other):
        one.sample(3)
        assert one.filled == 8


def test_mixed_batches_begin_with_real_transitions_which_have_no_penalty() -> None:
    memory = TransitionMemory(1, 1, 8)
    add(memory, 0, 8)
    x = torch.arange(-10.0, 0)[:, None]
    real = Transitions(x, x, x, torch.ones(10), torch.zeros(10))
    pairs, u, rows = memory.mixed(real, 0.3)
    assert rows.tolist() == [0, 3, 6]
    assert pairs.feat.shape == (10, 1) and torch.equal(pairs.feat[:3], x[[0, 3, 6]]), "from all over the batch"
    assert bool((pairs.feat[3:] >= 0).all())
    assert u[:3].tolist() == [0, 0, 0] and torch.equal(u[3:], 100 + pairs.feat[3:, 0])
    assert pairs.weight.tolist() == [0] * 3 + [1] * 7, "each row keeps its own weight"
    assert torch.equal(memory.mixed(real, 1.0)[0].feat, x)
