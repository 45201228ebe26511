"""Maximum-likelihood IRL: the reward under which the expert's behaviour is most likely (algorithms 2.4, 3.7, 3.10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import RewardNet, interpolates, steepness, weighted_mean

INPUTS = ("state_action", "state")
WEIGHTINGS = ("discounted", "sum", "mean")
# h -> r: likelihood determines a reward's scale by the temperature alone, so that where the policy cannot match the
# expert it would grow without bound
CLAMPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "soft": lambda h, bound: bound * torch.tanh(h / bound),
    "hard": lambda h, bound: h.clamp(-bound, bound),  # no gradient beyond (official code)
    "none": lambda h, bound: h,
}


class MLReward(RewardLearner):
    """r_theta(s, a), or r_theta(s), by gradient ascent on the likelihood of demonstrations (thesis, Lemmas 1, 10):

        L = -( E_E[sum_t w_t r_theta(s_t, a_t)] - E_pi[sum_t w_t r_theta(s_t, a_t)] ),     w_t = (1 - gamma) gamma^t

    to which ``lipschitz`` adds a regulariser: gp_weight E (||grad_x r_theta|| - lipschitz)_+^2 between pairs of both
    kinds, without which two sets of pairs that differ are told apart at the bound of the reward, however near they are.

    Sums end where an episode terminates. The policy is soft-optimal at its own temperature tau: what is identified is
    the reward divided by tau.
    """

    needs_weights = True  # whole trajectories, every pair with ``weights`` of its time

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        inputs: str,
        hidden: int,
        layers: int,
        act: str,
        clamp: str,
        bound: float,
        weighting: str,
        gamma: float,
        policy_data: str = "fresh",
        lipschitz: float = 0.0,
        gp_weight: float = 10.0,
    ) -> None:
        """gamma: the policy's discount. weighting: see ``weights``. clamp: soft, hard or none, at +-bound. lipschitz:
        steepness of the reward that costs nothing yet; 0: any.

        Raises ValueError on bad options.
        """
        super().__init__()
        for name, value, known in (
            ("inputs", inputs, INPUTS),
            ("clamp", clamp, tuple(CLAMPS)),
            ("weighting", weighting, WEIGHTINGS),
            ("policy_data", policy_data, ("imagined", "replay", "fresh", "chunks")),
        ):
            if value not in known:
                raise ValueError(f"reward.{name}: {value!r} is none of {', '.join(known)}")
        self.state_only = inputs == "state"
        self.net = RewardNet(feat if self.state_only else feat + action, hidden=hidden, layers=layers, act=act)
        self.clamp, self.bound = CLAMPS[clamp], bound
        self.weighting, self.gamma, self.policy_data = weighting, gamma, policy_data
        self.lipschitz, self.gp_weight = lipschitz, gp_weight

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[s, a] (..., F + A), or s alone; likelihood knows no input noise."""
        return feat if self.state_only else torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return self.clamp(self.net(x), self.bound)

    def weights(self, time: Tensor, trajectories: int) -> Tensor:
        """Weight of each pair of ``trajectories`` whole ones, by its time t = 0, 1, ... since the start: (n,) -> (n,).

        discounted: (1 - gamma) gamma^t; sum: 1, so that every time counts alike (M1: online official code); each over
        the number of trajectories. mean: one over the number of pairs, so that early ends change the others' weights
        (O3: offline official code).
        """
        if self.weighting == "mean":
            return torch.full_like(time, 1 / len(time), dtype=torch.float32)
        each = (1 - self.gamma) * self.gamma ** time.float() if self.weighting == "discounted" else torch.ones(1)
        return each.to(time.device).expand(len(time)) / trajectories

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """expert (n, X), policy (m, X) and the weights (n,), (m,) with which rewards are added up -> terms, metrics."""
        r_expert, r_policy = self.reward(expert.detach()), self.reward(policy.detach())
        sums = (r_expert * expert_weight).sum(), (r_policy * policy_weight).sum()
        losses = Losses(likelihood=sums[1] - sums[0])
        if self.lipschitz > 0:
            both = expert.detach(), policy.detach(), expert_weight > 0, policy_weight > 0
            losses["gp"] = self.gp_weight * self._steepness(*both)
        return losses, {
            "sum_expert": sums[0].detach(),
            "sum_policy": sums[1].detach(),
            "gap": (sums[0] - sums[1]).detach(),
            # reward and temperature are one estimate (algorithms 2.5): this belongs beside the policy's temperature
            "std": torch.cat([r_expert, r_policy]).std().detach(),
        }

    def _steepness(self, expert: Tensor, policy: Tensor, expert_counts: Tensor, policy_counts: Tensor) -> Tensor:
        """E (||grad_x r|| - lipschitz)_+^2 on interpolates of pairs that count, (n,) and (m,) bool."""
        x, pick = interpolates(expert, policy)
        excess = (steepness(self.reward(x), x) - self.lipschitz).clamp_min(0).square()
        return weighted_mean(excess, (expert_counts & policy_counts[pick]).float())
