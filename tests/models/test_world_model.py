"""World models: likelihood, sampled reconstruction, behaviour head, frame stacks (algorithms 2.1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from models.latent import Latent
from models.rssm import kl_loss
from models.world_model import Chunk, FrameStack, PixelWorldModel, scale_image
from tests.models.tiny import ACTION, STOCH, equal_latents, make_chunk, make_world, zero_latent


def fixed_posterior(world: PixelWorldModel, z: Latent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The world model observes ``z`` whatever it sees."""
    monkeypatch.setattr(world, "embed", lambda image: image.new_zeros(()))
    monkeypatch.setattr(world.rssm, "observe", lambda *args, **options: z)


# ---------------------------------------------------------------------- likelihood


def test_image_loss_is_the_unit_gaussian_likelihood_summed_over_pixels() -> None:
    world, chunk = make_world(members=1), make_chunk()
    torch.manual_seed(1)
    losses, z, metrics = world.loss(chunk)
    mean = world.decode(z.feat)
    target = chunk.obs.double() / 255 - 0.5
    log_prob = torch.distributions.Normal(mean.double(), 1.0).log_prob(target).sum((2, 3, 4)).mean()
    constant = -0.5 * np.log(2 * np.pi) * 64 * 64 * 3
    assert losses["image"].item() == pytest.approx(constant - log_prob.item(), rel=1e-4)
    assert metrics["image_error"].item() == pytest.approx(2 * losses["image"].item())
    prior = world.rssm.priors(z.deter, torch.zeros(6, dtype=torch.long))
    kl, _ = kl_loss(world.rssm.latent, z.params, prior, balance=0.8, free=1.0)
    torch.testing.assert_close(losses["kl"], kl)
    torch.testing.assert_close(losses.total, losses["image"] + losses["kl"])
    assert set(losses) == {"image", "kl"}


def test_loss_options_reach_the_kl() -> None:
    chunk = make_chunk()
    found = []
    for options in ({}, {"kl_scale": 3.0}, {"free_nats": 50.0}, {"kl_balance": 0.3}):
        torch.manual_seed(1)
        found.append(make_world(members=1, **options).loss(chunk)[0]["kl"])
    torch.testing.assert_close(found[1], 3 * found[0])
    assert found[2].item() == 50.0
    torch.testing.assert_close(found[3], found[0])  # balance changes gradients, not the value


@pytest.mark.parametrize("categorical", [False, True])
def test_every_parameter_is_trained(categorical: bool) -> None:
    world = make_world(members=1, categorical=categorical, free_nats=0.0, behaviour_scale=1.0)
    losses, _, _ = world.loss(make_chunk(expert=True))
    grads = torch.autograd.grad(losses.total, list(world.parameters()), allow_unused=True)
    untrained = [n for (n, _), g in zip(world.named_parameters(), grads, strict=True) if g is None or not g.any()]
    assert not untrained


def test_members_of_the_training_kl_are_drawn_once_per_time_step(monkeypatch: pytest.MonkeyPatch) -> None:
    world, chunk = make_world(members=3), make_chunk(b=2, t=6, size=2)
    fixed_posterior(world, zero_latent(2, 6), monkeypatch)
    monkeypatch.setattr(world, "decode", lambda feat: torch.zeros(*feat.shape[:-1], 2, 2, 3))
    priors, seen = world.rssm.priors, []

    def spy(deter: Tensor, member: Tensor) -> Tensor:
        seen.append(member)
        return priors(deter, member)

    monkeypatch.setattr(world.rssm, "priors", spy)
    torch.manual_seed(0)
    for _ in range(150):
        world.loss(chunk)
    members = torch.stack(seen)
    assert members.shape == (150, 6), "one index per time step, shared by the batch"
    assert chisquare(np.bincount(members.flatten(), minlength=3)).pvalue > 1e-3
    assert (members[:, 0] != members[:, 1]).any()


def test_reconstructing_some_rows_estimates_the_whole_likelihood_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, some = make_world(), make_world(decode_rows=2)
    b, t, draws = 2, 4, 400
    z, chunk = zero_latent(b, t), make_chunk(b, t, size=2)
    # rows of very different cost: reconstructions in which row r of the batch is off by r everywhere
    z = dataclasses.replace(z, stoch=torch.arange(float(b * t)).view(b, t, 1).expand(b, t, STOCH))
    wrong = scale_image(chunk.obs) + torch.arange(float(b * t)).view(b, t, 1, 1, 1)
    for world in (whole, some):
        fixed_posterior(world, z, monkeypatch)
        monkeypatch.setattr(world, "decode", lambda feat: wrong.flatten(0, 1)[feat[..., 0].long()])
    exact = whole.loss(chunk)[0]["image"].item()
    assert exact == pytest.approx(0.5 * 2 * 2 * 3 * sum(r**2 for r in range(b * t)) / (b * t), rel=1e-4)
    torch.manual_seed(0)
    found = np.array([some.loss(chunk)[0]["image"].item() for _ in range(draws)])
    assert found.std() > 0.01 * exact, "different rows are drawn each time"
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(draws)


def test_reconstructed_rows_are_compared_with_their_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(decode_rows=2)
    chunk = make_chunk(2, 5, size=2)
    number = torch.arange(10.0).view(2, 5, 1)
    z = dataclasses.replace(zero_latent(2, 5), stoch=number.expand(2, 5, STOCH))
    fixed_posterior(world, z, monkeypatch)
    frames = scale_image(chunk.obs).flatten(0, 1)
    seen = []

    def decode(feat: Tensor) -> Tensor:
        seen.append(feat[..., 0].long())
        return frames[feat[..., 0].long()]

    monkeypatch.setattr(world, "decode", decode)
    assert world.loss(chunk)[0]["image"].item() == 0.0
    assert seen[0].shape == (2, 2) and (seen[0] // 5 == torch.tensor([[0], [1]])).all()
    assert (seen[0][:, 0] != seen[0][:, 1]).all(), "without replacement"


def test_shifted_frames_are_seen_and_frames_as_they_are_reconstructed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, chunk = make_world(shift=4), make_chunk(2, 3)
    embedded: list[Tensor] = []
    embed = world.embed
    monkeypatch.setattr(world, "embed", lambda image: embedded.append(image) or embed(image))
    monkeypatch.setattr(world, "decode", lambda feat: scale_image(chunk.obs))
    torch.manual_seed(0)
    assert world.loss(chunk)[0]["image"].item() == 0.0
    assert not torch.equal(embedded[0], chunk.obs)
    world.observe(chunk)
    assert torch.equal(embedded[1], chunk.obs), "acting and imagining start from frames as they are"


# ---------------------------------------------------------------------- behaviour head


def test_behaviour_head_trains_the_encoder() -> None:
    world = make_world(behaviour_scale=2.0)
    losses, _, metrics = world.loss(make_chunk(expert=True))
    for part in (world.encoder, world.rssm.gru, world.rssm.post_out, world.behaviour):
        assert part is not None
        assert all(g.any() for g in torch.autograd.grad(losses["behaviour"], part.parameters(), retain_graph=True))
    assert losses["behaviour"].item() == pytest.approx(2 * metrics["behaviour_error"].item())
    assert make_world().behaviour is None


def test_behaviour_head_predicts_the_action_taken_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(behaviour_scale=1.0)
    chunk = make_chunk(2, 6, restart=4, size=2)
    # only the first chunk is an expert's; in its row 0 there is too little history, and row 3 ends an episode
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[0, 0] = False
    chunk = dataclasses.replace(chunk, expert=torch.tensor([True, False]), valid=valid)
    stoch = torch.zeros(2, 6, STOCH)
    stoch[0, :-1, :ACTION] = torch.atanh(chunk.action[0, 1:])
    stoch[0, 0] = stoch[0, 3] = stoch[1] = 7.0  # nonsense that must not count
    fixed_posterior(world, dataclasses.replace(zero_latent(2, 6), stoch=stoch), monkeypatch)
    monkeypatch.setattr(world, "decode", lambda feat: torch.zeros(*feat.shape[:-1], 2, 2, 3))

    class First(nn.Module):
        def forward(self, feat: Tensor) -> Tensor:
            return feat[..., :ACTION]

    monkeypatch.setattr(world, "behaviour", First())
    assert world.loss(chunk)[0]["behaviour"].item() == pytest.approx(0.0, abs=1e-10)
    stoch[0, 1, 0] = torch.atanh(chunk.action[0, 2, 0] + 0.05)  # one of the three rows that count is off by 0.05
    assert world.loss(chunk)[0]["behaviour"].item() == pytest.approx(0.05**2 / 3, rel=1e-3)
    # the pairing of some published code, a row late, must not pass
    stoch[0, :, :ACTION] = torch.atanh(chunk.action[0])
    assert world.loss(chunk)[0]["behaviour"].item() > 0.01
    none = dataclasses.replace(chunk, expert=torch.tensor([False, False]))
    assert world.loss(none)[0]["behaviour"].item() == 0.0


# ---------------------------------------------------------------------- acting and imagining


@pytest.mark.parametrize("categorical", [False, True])
def test_filter_follows_observe(categorical: bool) -> None:
    world, chunk = make_world(categorical=categorical), make_chunk(2, 5, restart=3)
    torch.manual_seed(2)
    whole = world.observe(chunk)
    torch.manual_seed(2)
    carry = world.initial(2)
    for t in range(5):
        z, carry = world.filter(chunk.obs[:, t], chunk.action[:, t], chunk.is_first[:, t], carry)
        torch.testing.assert_close(z.feat, whole.feat[:, t])


def test_open_loop_predictions_see_only_the_context() -> None:
    world, chunk = make_world(members=1), make_chunk(2, 6)

    def predict(c: Chunk) -> Tensor:
        torch.manual_seed(3)
        return world.open_loop(c, 2)

    frames = predict(chunk)
    assert frames.shape == (2, 6, 64, 64, 3) and frames.min() >= 0 and frames.max() <= 1
    later, earlier, action = (x.clone() for x in (chunk.obs, chunk.obs, chunk.action))
    later[:, 2:] = 0
    assert torch.equal(predict(dataclasses.replace(chunk, obs=later)), frames)
    earlier[:, 1] = 0
    assert not torch.equal(predict(dataclasses.replace(chunk, obs=earlier))[:, 2:], frames[:, 2:])
    action[:, 4] = -action[:, 4]
    other = predict(dataclasses.replace(chunk, action=action))
    assert torch.equal(other[:, :4], frames[:, :4]) and not torch.equal(other[:, 4:], frames[:, 4:])


# ---------------------------------------------------------------------- frame stack


def stack(**options: Any) -> FrameStack:
    torch.manual_seed(0)
    return FrameStack(action=ACTION, depth=2, frames=3, size=8, **options)


def test_frames_are_stacked_oldest_first_and_never_across_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = stack(shift=0)
    seen: list[Tensor] = []
    monkeypatch.setattr(world, "_latent", lambda x: seen.append(x) or Latent(*(torch.zeros(len(x), 1),) * 3))
    chunk = make_chunk(1, 6, restart=3)
    chunk = dataclasses.replace(
        chunk, obs=torch.arange(6, dtype=torch.uint8).view(1, 6, 1, 1, 1).expand(1, 6, 64, 64, 3)
    )
    world.observe(chunk)
    rows = seen[0][:, 0, 0].tolist()
    expected = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [3, 4, 5]]
    assert rows == [[r for r in stacked for _ in range(3)] for stacked in expected]


def test_frame_stack_acts_on_what_it_was_trained_on() -> None:
    world, chunk = stack(shift=4), make_chunk(2, 6, restart=3)
    whole = world.observe(chunk)
    assert whole.feat.shape == (2, 6, world.feat)
    carry = world.initial(2)
    for t in range(6):
        z, carry = world.filter(chunk.obs[:, t], chunk.action[:, t], chunk.is_first[:, t], carry)
        torch.testing.assert_close(z.feat, whole.feat[:, t], rtol=1e-4, atol=1e-5)


def test_frame_stack_shifts_only_while_training() -> None:
    world, chunk = stack(shift=4), make_chunk(2, 3)
    torch.manual_seed(1)
    a, b = world.observe(chunk), world.observe(chunk)
    assert equal_latents(a, b)
    assert not equal_latents(world.loss(chunk)[1], a)


def test_frame_stack_has_no_dynamics() -> None:
    world = stack()
    assert not world.can_imagine and not world.loss(make_chunk(1, 2))[0]
    with pytest.raises(NotImplementedError, match="no dynamics"):
        world.step(zero_latent(1), torch.zeros(1, ACTION))
