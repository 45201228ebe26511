"""Probabilistic MLP ensemble, the state world model's dynamics (algorithms 2.2; MOPO, MBPO, PETS).

Extra shape legend: N members, n rows, F feature, A action, E elites.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_FLOOR = (
    1e-3  # least std that inputs are divided by: entries that hardly move stay small instead of becoming noise
)
DELTA_FLOOR = 1e-5  # least std of a delta: entries that never move (a goal) would be divided by zero
CLIP = 10.0  # normalised inputs are clipped to +-CLIP: whatever the rollout does, a member's delta stays bounded


@dataclass(frozen=True)
class FitOptions:
    """Options of ``MLPEnsemble.fit`` (algorithms 2.2, default column).

    lr: Adam's. batch: rows a member sees per update. max_epochs, max_updates: hard caps (0 updates: no cap).
    patience: epochs in which no member improves its hold-out error by more than the fraction ``tolerance``, or its
    hold-out negative log-likelihood by more than ``tolerance`` nats an entry.
    holdout: fraction of the rows held out, at least min(1000, n / 5) rows and at most 50 000.
    """

    lr: float = 1e-3
    batch: int = 256
    max_epochs: int = 1000
    max_updates: int = 0
    patience: int = 5
    tolerance: float = 0.01
    holdout: float = 0.1


class FitProgress(NamedTuple):
    """How far a fit is: whole epochs, updates, and the mean of the members' lowest hold-out errors (inf: none yet)."""

    epochs: int
    updates: int
    mse: float


# asked between two updates, of which at least one is made each time: whether to leave the fit here
Pause = Callable[[FitProgress], bool]


class FitStopped(Exception):
    """A fit was asked to stop. All is as before it, but for ``unfinished``, from which the same fit goes on."""


def never(progress: FitProgress) -> bool:
    """Go on to the end."""
    return False


@dataclass
class _Course:
    """Where a fit is. best: weights of each member's best epoch, best_scores (2, N) theirs; lowest (N,): errors of all
    epochs; reference (2, N): what has to be improved on; stale: epochs without; batches: of the epoch that is on.
    """

    best: list[Tensor]
    best_scores: Tensor
    reference: Tensor
    lowest: Tensor
    epochs: int = 0
    updates: int = 0
    stale: int = 0
    batches: int = 0

    def to(self, device: torch.device) -> _Course:
        tensors = {k: getattr(self, k).to(device) for k in ("best_scores", "reference", "lowest")}
        return replace(self, best=[b.to(device) for b in self.best], **tensors)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def mopo_l2(layers: int) -> tuple[float, ...]:
    """MOPO's L2 coefficients of ``layers`` hidden layers and the outputs; further hidden layers repeat the last."""
    hidden = (2.5e-5, 5e-5, 7.5e-5)
    return (*(hidden[min(i, 2)] for i in range(layers)), 1e-4)


def layer_l2(l2: bool | float | str, layers: int) -> tuple[float, ...]:
    """Coefficients of ``layers`` hidden layers and the outputs: MOPO's for "auto" (true in runs of earlier versions),
    or one number for all of them. Raises ValueError for anything else.
    """
    if l2 == "auto" or l2 is True:
        return mopo_l2(layers)
    if isinstance(l2, str) or l2 < 0:
        raise ValueError(f"world_model.l2: {l2!r}, expected auto or a number that is at least 0")
    return (float(l2),) * (layers + 1)


class MLPEnsemble(nn.Module):
    """N independent members p_i(next | feat, action) = N(feat + mu_i, diag exp(logvar_i)), all in one batched product.

    With ``normalise`` inputs and the target delta = next - feat are normalised with statistics of the rows that ``fit``
    trained on; the networks work in those units. Without it they see numbers as they are, clipped nowhere (CLARE's
    code). Nothing is shared between members, not even the log-variance bounds (MOPO shares them), so that each can be
    restored to its own best weights exactly.
    """

    mean: Tensor
    std: Tensor
    delta_mean: Tensor
    delta_std: Tensor
    elites: Tensor

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        members: int,
        elites: int,
        l2: Sequence[float],
        normalise: bool = True,
        max_logvar: float = 0.5,
    ) -> None:
        """l2: coefficients of 1/2 ||W||^2 of each hidden layer and of the outputs, or empty. max_logvar: where the
        upper bound of log-variances begins; it is learned. Raises ValueError.
        """
        super().__init__()
        if not 1 <= elites <= members:
            raise ValueError(f"{elites} elites of {members} members: between 1 and all of them can be elites")
        if l2 and len(l2) != layers + 1:
            raise ValueError(f"l2: {len(l2)} coefficients for {layers} hidden layers and the outputs")
        self.members, self.normalise, self.l2 = members, normalise, tuple(l2) or (0.0,) * (layers + 1)
        sizes = [feat + action, *[hidden] * layers, 2 * feat]
        self.weights = nn.ParameterList(torch.empty(members, a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.biases = nn.ParameterList(torch.zeros(members, 1, size) for size in sizes[1:])
        for weight, fan_in in zip(self.weights, sizes[:-1], strict=True):
            std = 0.5 / math.sqrt(fan_in)
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        self.max_logvar = nn.Parameter(torch.full((members, 1, feat), max_logvar))
        self.min_logvar = nn.Parameter(torch.full((members, 1, feat), -10.0))
        for name, size in (("mean", feat + action), ("delta_mean", feat)):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("std", feat + action), ("delta_std", feat)):
            self.register_buffer(name, torch.ones(size))
        self.register_buffer("elites", torch.arange(elites))
        self.held_out: Tensor | None = None
        self.unfinished: dict[str, Any] | None = None  # belongs in a checkpoint

    # ---- prediction ----
    def inputs(self, feat: Tensor, action: Tensor) -> Tensor:
        """Normalised, clipped network inputs: (..., F), (..., A) -> (..., F + A)."""
        joint = torch.cat([feat, action], -1)
        return ((joint - self.mean) / self.std).clamp(-CLIP, CLIP) if self.normalise else joint

    def _raw(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """One batch a member (N, n, F + A) -> outputs (N, n, 2F); ``members`` (E,): those that the batches belong to.

        bf16 would round differently in each member, which is disagreement where there is none; so an autocast around
        this is switched off.
        """
        with torch.autocast(x.device.type, enabled=False):
            for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                if members is not None:
                    weight, bias = weight[members], bias[members]
                x = torch.baddbmm(bias, F.silu(x) if i > 0 else x, weight)
        return x

    def _shared(self, x: Tensor) -> Tensor:
        """The same rows (n, F + A) for every member -> outputs (N, n, 2F)."""
        return self._raw(x.expand(self.members, *x.shape))

    def _split(self, raw: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs -> mean and softly clamped log-variance (algorithms 2.2)."""
        mean, rho = raw.chunk(2, -1)
        high, low = (b if members is None else b[members] for b in (self.max_logvar, self.min_logvar))
        logvar = high - F.softplus(high - rho)
        return mean, low + F.softplus(logvar - low)

    def forward(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalised delta by every member: (n, F), (n, A) -> (N, n, F) each."""
        return self._split(self._shared(self.inputs(feat, action)))

    def predict(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the next feature by every member: (n, F), (n, A) -> (N, n, F) each, in units of feat."""
        mean, logvar = self(feat, action)
        return feat + self.to_delta(mean), (0.5 * logvar).exp() * self.delta_std

    def to_delta(self, mean: Tensor) -> Tensor:
        """Normalised delta -> delta in units of feat, (..., F)."""
        return self.delta_mean + self.delta_std * mean

    def draw_slots(self, n: int) -> Tensor:
        """One elite per row, all equally likely, as distinct slots (n,): each elite owns ceil(n / E) of them.

        So the shapes in ``forward_slots`` do not depend on the draw: nothing waits for the device, and each row costs
        one evaluation instead of E. Within one call elites are drawn without replacement; calls are independent.
        """
        total = len(self.elites) * math.ceil(n / len(self.elites))
        return torch.rand(total, device=self.mean.device).argsort()[:n]

    def drawn(self, slots: Tensor) -> Tensor:
        """Index of the member that each row drew: slots (n,) -> (n,)."""
        return self.elites[slots // math.ceil(len(slots) / len(self.elites))]

    def forward_slots(self, feat: Tensor, action: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` by the elite that each row drew: (n, F), (n, A), (n,) -> (n, F) each."""
        x, count = self.inputs(feat, action), len(self.elites)
        per = math.ceil(len(x) / count)
        placed = x.new_zeros(count * per, x.shape[-1]).index_copy(0, slots, x).view(count, per, x.shape[-1])
        mean, logvar = self._split(self._raw(placed, self.elites), self.elites)
        return mean.flatten(0, 1)[slots], logvar.flatten(0, 1)[slots]

    # ---- fitting ----
    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """mean_{batch,dim} [logvar + (delta - mu)^2 exp(-logvar)] of each member: (N, n, 2F), (..., n, F) -> (N,)."""
        mean, logvar = self._split(raw)
        return (logvar + (target - mean).square() * (-logvar).exp()).mean((1, 2))

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Loss of each member (N,) on its own normalised inputs (N, B, F + A) and deltas (N, B, F); L2 is Adam's."""
        return self.nll(self._raw(x), target) + 0.01 * (self.max_logvar - self.min_logvar).sum((1, 2))

    @torch.no_grad()
    def scores(self, x: Tensor, target: Tensor) -> Tensor:
        """(2, N) squared error of the mean and ``nll`` of each member on normalised rows (n, F + A), (n, F)."""
        total = target.new_zeros(2, self.members)
        for a, b in zip(x.split(4096), target.split(4096), strict=True):
            raw = self._shared(a)
            mse = (raw[..., : b.shape[-1]] - b).square().mean((1, 2))
            total += torch.stack([mse, self.nll(raw, b)]) * len(b)
        return total / len(x)

    def fit(
        self,
        feat: Tensor,
        action: Tensor,
        next_feat: Tensor,
        options: FitOptions,
        pause: Pause = never,
        weight: Tensor | None = None,
    ) -> dict[str, float]:
        """Fit all members to transitions (n, F), (n, A), (n, F), starting from the current weights, or go on with a fit
        that was left: given the same random state, data and weights, as if it had not been.

        Each member keeps the weights of the epoch with its lowest hold-out error; where errors are level (within
        ``tolerance``) the likelihood decides. By errors alone a small set stops when the means are good and the
        variances have not come down yet: 4 to 9 times too large on a linear system with noise.

        weight: (n,), how often each transition is drawn, relative to others; None: all alike. What is held out is
        judged as it is.

        Deterministic given torch's global random state: a fit leaves nothing behind but parameters and buffers (its
        Adam starts afresh). The weights at the start are no candidate for the best: they may have been fitted to what
        is held out now.

        Returns the hold-out's ``mse`` (1 is what a constant reaches), ``mse_elites`` and ``nll``, and ``epochs``,
        ``updates``, ``rows``; ``held_out`` then tells which rows (m,) no member has seen. Raises ValueError for fewer
        than 5 rows, other shapes, or numbers that are not finite; FitStopped when ``pause`` says so.
        """
        before = {name: value.clone() for name, value in self.state_dict().items()}, _random_state(feat.device)
        x, target, train, held = self._prepare(feat, action, next_feat, options.holdout)
        data = torch.cat([x, target], -1)[train]  # one gather fetches inputs and targets
        x_held, target_held = x[held], target[held]
        # independent bootstrap resamples; a common permutation of their columns shuffles all of them
        if weight is None:
            boot = torch.randint(len(data), (self.members, len(data)), device=data.device)
        else:
            boot = weight[train].multinomial(self.members * len(data), replacement=True).view(self.members, -1)
        # Adam's coupled weight decay c W is the gradient of c/2 ||W||^2: L2 without a term in the loss
        groups: list[dict[str, object]] = [{"params": [*self.biases, self.max_logvar, self.min_logvar]}]
        groups += [{"params": [w], "weight_decay": c} for w, c in zip(self.weights, self.l2, strict=True)]
        adam = torch.optim.Adam(groups, lr=options.lr, fused=True)
        params: list[Tensor] = list(self.parameters())
        infinite = target.new_full((2, self.members), torch.inf)
        at = _Course([p.detach().clone() for p in params], infinite, infinite, infinite[0])
        left, self.unfinished = self.unfinished, None
        if left is not None and torch.equal(left["held"].to(held.device), held):
            _set_random_state(feat.device, left["random"].cpu())
            adam.load_state_dict(left["adam"])
            at = _Course(**left["course"]).to(feat.device)
            with torch.no_grad():
                torch._foreach_copy_(params, left["params"])
        cap, slack, begun = options.max_updates or math.inf, options.tolerance, at.updates
        while at.epochs < options.max_epochs and at.updates < cap and at.stale < options.patience:
            random, mse_then = _random_state(feat.device), float(at.lowest.mean())
            batches = torch.randperm(len(data), device=data.device).split(options.batch)
            for columns in batches[at.batches :]:
                if at.updates > begun and pause(FitProgress(at.epochs, at.updates, mse_then)):
                    adam.zero_grad(set_to_none=True)
                    kept = {"held": held, "random": random, "adam": adam.state_dict(), "course": dict(vars(at))}
                    self.unfinished = kept | {"params": [p.detach().clone() for p in params]}
                    self.load_state_dict(before[0])
                    _set_random_state(feat.device, before[1])
                    raise FitStopped
                rows = data[boot[:, columns]]
                grads = torch.autograd.grad(self.loss(*rows.split([x.shape[-1], target.shape[-1]], -1)).sum(), params)
                for p, g in zip(params, grads, strict=True):
                    p.grad = g
                adam.step()
                at.updates, at.batches = at.updates + 1, at.batches + 1
                if at.updates >= cap:
                    break
            at.epochs, at.batches = at.epochs + 1, 0
            scores = self.scores(x_held, target_held)
            mse, nll = scores
            at.lowest = torch.minimum(at.lowest, mse)
            level = (mse <= at.lowest * (1 + slack)) & (nll < at.best_scores[1])
            better = (mse < at.best_scores[0] * (1 - slack)) | level
            at.best_scores = torch.where(better, scores, at.best_scores)
            at.best = [torch.where(better.view(-1, 1, 1), p.detach(), b) for p, b in zip(params, at.best, strict=True)]
            enough = scores < torch.stack([at.reference[0] * (1 - slack), at.reference[1] - slack])
            at.reference = torch.where(enough, scores, at.reference)
            at.stale = 0 if bool(enough.any()) else at.stale + 1
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_copy_(params, at.best)
            self.elites.copy_(at.best_scores[0].argsort()[: len(self.elites)])
        mse, nll = at.best_scores
        self.held_out = held
        found = {"mse": mse.mean(), "mse_elites": mse[self.elites].mean(), "nll": nll.mean()}
        return {k: float(v) for k, v in found.items()} | {
            "epochs": at.epochs,
            "updates": at.updates,
            "rows": len(feat),
        }

    def _prepare(
        self, feat: Tensor, action: Tensor, next_feat: Tensor, holdout: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Check, split, refit the normalisers: inputs (n, F + A), targets (n, F), indices of training and hold-out."""
        n, size = len(feat), self.delta_std.numel()
        if n < 5 or feat.shape != (n, size) or next_feat.shape != feat.shape or len(action) != n:
            raise ValueError(
                f"cannot fit to feat {tuple(feat.shape)}, action {tuple(action.shape)}, next {tuple(next_feat.shape)}"
            )
        joint, delta = torch.cat([feat, action], -1), next_feat - feat
        if not bool(joint.isfinite().all() & delta.isfinite().all()):
            raise ValueError("cannot fit to transitions that hold numbers that are not finite")
        held = min(max(int(n * holdout), min(1000, n // 5)), 50_000)
        order = torch.randperm(n, device=feat.device)
        train = order[held:]
        if self.normalise:
            for values, mean, std, floor in (
                (joint[train], self.mean, self.std, INPUT_FLOOR),
                (delta[train], self.delta_mean, self.delta_std, DELTA_FLOOR),
            ):
                mean.copy_(values.mean(0))
                std.copy_(values.std(0, correction=0).clamp_min(floor))
        return self.inputs(feat, action), (delta - self.delta_mean) / self.delta_std, train, order[:held]
