"""AIHF: one reward that explains demonstrations and comparisons of segments (algorithms 3.15; thesis eq. 4.23)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.errors import ConfigError
from agent.reward.ml import MLReward
from models.latent import Losses

DEMO_LOSSES = ("linear", "logistic")


class Segments(NamedTuple):
    """n comparisons of two segments of t pairs: obs (n, 2, t, ...), action (n, 2, t, A), label (n,), the share of votes
    for the second one.
    """

    obs: Tensor
    action: Tensor
    label: Tensor


class AIHFReward(MLReward):
    """r_theta as in ML-IRL, by the likelihood of demonstrations and, after Bradley and Terry, of comparisons:

        L = w_demo L_demo - w_pref c E[ log sigmoid((R(win) - R(loss)) / tau) ],    R = sum_t segment_gamma^t r_theta

    with tau the policy's temperature. ML-IRL's loss is the demonstrations' negative log-likelihood times
    c = tau (1 - gamma) (c = tau where sums are not discounted), so that this factor belongs to the comparisons as well;
    c = 1 where they are alone.

    linear: L_demo is ML-IRL's loss. logistic (eq. 4.24a): c times -log sigmoid((R(expert) - R(policy)) / tau) over all
    pairs of an expert's and a policy's trajectory; at equal returns half the linear one's gradient. ``w_pref`` = 0 is
    ML-IRL; ``w_demo`` = 0 is the reward of RLHF, which demonstrations do not enter.
    """

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        w_demo: float,
        w_pref: float,
        demo_loss: str,
        temperature: float,
        comparisons: int,
        segment_gamma: float,
        **likelihood: Any,
    ) -> None:
        """temperature: tau. comparisons: of one step. likelihood: options of `MLReward`. ValueError: bad options."""
        super().__init__(feat, action, **likelihood)
        if demo_loss not in DEMO_LOSSES:
            raise ValueError(f"reward.demo_loss: {demo_loss!r} is none of {', '.join(DEMO_LOSSES)}")
        for name, weight in (("w_demo", w_demo), ("w_pref", w_pref)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"reward.{name}: {weight} is no weight")
        if w_demo == w_pref == 0:
            raise ValueError("reward.w_demo, reward.w_pref: both are 0: there is nothing to learn from")
        if isinstance(temperature, str) or not temperature > 0:
            raise ValueError(f"reward.temperature: {temperature!r} is no temperature; auto is for the policy alone")
        if comparisons < 1 or not 0 < segment_gamma <= 1:
            raise ValueError(f"reward.comparisons: {comparisons}, reward.segment_gamma: {segment_gamma}: out of range")
        self.needs_preferences, self.needs_demos = w_pref > 0, w_demo > 0
        self.needs_tracks = self.needs_demos and demo_loss == "logistic"
        self.needs_rounds = self.needs_preferences or self.needs_tracks
        if self.needs_rounds and self.weighting == "mean":
            raise ValueError("reward.weighting: mean has no scale to add comparisons to: discounted or sum")
        if self.needs_rounds and self.policy_data == "replay":
            raise ValueError("reward.policy_data: replay shows no whole trajectories: fresh, imagined or chunks")
        self.w_demo, self.w_pref, self.demo_loss = w_demo, w_pref, demo_loss
        self.tau, self.comparisons, self.segment_gamma = float(temperature), comparisons, segment_gamma
        self.unit = 1 - self.gamma if self.weighting == "discounted" else 1.0  # weight of a trajectory's first pair
        self.scale = self.tau * self.unit if w_demo > 0 else 1.0
        self.told: Segments | None = None

    def take(self, obs: np.ndarray, action: np.ndarray, label: np.ndarray, device: torch.device) -> None:
        """The comparisons of a run, in `Segments`' shapes; no part of a checkpoint, as demonstrations are none."""
        self.told = Segments(*(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (obs, action, label)))

    def drawn(self, rng: np.random.Generator) -> Segments:
        """``comparisons`` of those taken, with replacement. Raises ValueError before any were."""
        if self.told is None:
            raise ValueError("reward=aihf: no comparisons were given: preferences=PATH")
        rows = torch.from_numpy(rng.integers(0, len(self.told.label), self.comparisons)).to(self.told.label.device)
        return Segments(*(x[rows] for x in self.told))

    def loss(
        self,
        expert: Tensor,
        policy: Tensor,
        expert_weight: Tensor,
        policy_weight: Tensor,
        tracks: tuple[tuple[Tensor, int], tuple[Tensor, int]] | None = None,
    ) -> tuple[Losses, dict[str, Tensor]]:
        """As `MLReward.loss`; tracks: which trajectory, 0, 1, ..., each pair (n,), (m,) belongs to,
        and of how many ``weights`` took them to be.
        """
        losses, found = super().loss(expert, policy, expert_weight, policy_weight)
        if self.demo_loss == "linear":
            return Losses(losses | {"likelihood": self.w_demo * losses["likelihood"]}), found
        if tracks is None:
            raise ConfigError("reward.demo_loss: logistic compares whole trajectories, which rounds of the reward have")
        returns = (
            self._returns(self.reward(x.detach()) * weight, *track)
            for x, weight, track in zip((expert, policy), (expert_weight, policy_weight), tracks, strict=True)
        )
        ours, theirs = returns
        gap = (ours[:, None] - theirs[None]) / self.tau
        return Losses(losses | {"likelihood": self.w_demo * self.scale * F.softplus(-gap).mean()}), found

    def _returns(self, weighted: Tensor, track: Tensor, number: int) -> Tensor:
        """Rewards times ``weights`` (n,) -> sum_t gamma^t r of each trajectory that has a pair left."""
        sums = weighted.new_zeros(number).index_add(0, track, weighted) * (number / self.unit)
        return sums[track.unique()]

    def preference(self, x: Tensor, label: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Bradley-Terry on inputs x (n, 2, t, X) and label (n,), the share of votes for the second segment.

        Its gradient, per comparison and without c: -sigmoid(-(R_w - R_l) / tau) / tau (grad R_w - grad R_l).
        """
        r = self.reward(x.detach())
        total = (r * self.segment_gamma ** torch.arange(r.shape[-1], device=r.device)).sum(-1)
        logit = (total[:, 1] - total[:, 0]) / self.tau
        value = F.binary_cross_entropy_with_logits(logit, label)
        said = label != 0.5
        agree = ((logit > 0) == (label > 0.5))[said].float().mean() if bool(said.any()) else logit.new_zeros(())
        return Losses(preference=self.w_pref * self.scale * value), {
            "bradley_terry": value.detach(),
            "agreement": agree.detach(),
        }
