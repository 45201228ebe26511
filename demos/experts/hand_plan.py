"""Planning for the Shadow Hand by trying out short action sequences in a copy of its simulation."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mujoco
import numpy as np

from envs.baoding import JOINTS, NEAR, STEP, BaodingEnv

TIMESTEP = 0.005  # s; the plan's physics runs at half the environment's rate, which costs half as much and is as good
HALF_TURN = 30  # steps after which the balls have changed places and the hand does the same again
LOW = 0.145  # m; balls that lie well are higher
LOST = 0.08  # m; a ball below it will fall
_STATE_BITS = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)


@dataclass(frozen=True)
class Search:
    """How wide and how far the planner looks.

    Attributes:
        samples: action sequences tried per step.
        horizon: their length, steps.
        spread: standard deviation of their differences from the plan, in units of action.
        threads: simulations at a time; the result does not depend on it.
    """

    samples: int = 16
    horizon: int = 5
    spread: float = 0.15
    threads: int = 1


class HandPlanner:
    """Model predictive path integral control: the plan is the mean of tried sequences, weighted by exp(-cost / scale).

    Sequences differ from the plan by noise that is piecewise linear in time (three knots) and concerns a fifth, half or
    all of the joints. The plan moves on with time; its new last step comes from the gait, or without one from what was
    done half a turn ago.
    """

    def __init__(self, env: BaodingEnv, search: Search, seed: int, gait: np.ndarray | None = None) -> None:
        """Copy the simulation.

        Args:
            env: made with actions=clean.
            search: how much to try.
            seed: of the noise.
            gait: actions (HALF_TURN, 24) that turn the balls by half a turn; step k starts from row k modulo HALF_TURN.
        """
        self._env, self._search, self._gait = env, search, gait
        self._rng = np.random.default_rng(seed)
        self._model = copy.deepcopy(env.model)
        self._model.opt.timestep = TIMESTEP
        self._data = [mujoco.MjData(self._model) for _ in range(search.threads)]
        self._pool = ThreadPoolExecutor(search.threads)
        self._plan = np.stack([self._hint(step) for step in range(search.horizon)])
        self._done: list[np.ndarray] = []

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def act(self) -> np.ndarray:
        """Return the action (24,) float64 for the environment's present state; call once per step."""
        search, step = self._search, len(self._done)
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE_BITS))
        mujoco.mj_getState(self._env.model, self._env.data, state, _STATE_BITS)
        for _ in range(3 if step == 0 and self._gait is None else 1):
            tried = np.clip(self._plan + self._noise(), -1.0, 1.0)
            if self._gait is not None:
                tried[1] = np.stack([self._hint(step + ahead) for ahead in range(search.horizon)])
            parts = np.array_split(tried, search.threads)
            found = self._pool.map(lambda d, part: [self._cost(d, state, one) for one in part], self._data, parts)
            cost = np.concatenate(list(found))
            ordered = np.sort(cost)
            scale = max(ordered[max(3, len(cost) // 8)] - ordered[0], 1e-3) / 2.0
            weight = np.exp(-(cost - ordered[0]) / scale)
            self._plan = np.tensordot(weight / weight.sum(), tried, 1)
        action = self._plan[0]
        self._done.append(action)
        self._plan = np.concatenate([self._plan[1:], self._hint(step + search.horizon)[None]])
        return action

    def _hint(self, step: int) -> np.ndarray:
        """Return what is known of step number `step`: the gait's action, that half a turn ago, or the plan's last."""
        if self._gait is not None:
            return np.asarray(self._gait[step % HALF_TURN])
        if step < self._search.horizon:
            return np.zeros(JOINTS)
        before = step - HALF_TURN
        return self._done[before] if before >= 0 else self._plan[-1]

    def _noise(self) -> np.ndarray:
        """Draw differences (samples, horizon, 24) from the plan; the first is zero."""
        search, rng = self._search, self._rng
        knots = rng.normal(size=(search.samples, 3, JOINTS)) * search.spread
        knots *= rng.random((search.samples, 1, JOINTS)) < rng.choice([0.2, 0.5, 1.0], size=(search.samples, 1, 1))
        knots *= rng.choice([0.3, 0.6, 1.0], size=(search.samples, 1, 1))
        knots[0] = 0.0
        place = np.linspace(0.0, 2.0, search.horizon)
        left = np.minimum(place.astype(int), 1)
        part = (place - left)[:, None]
        return knots[:, left] * (1.0 - part) + knots[:, left + 1] * part

    def _cost(self, data: mujoco.MjData, state: np.ndarray, actions: np.ndarray) -> float:
        """Run actions (horizon, 24) from the state; return how bad the way is, about 2 per cm and ball and step."""
        model, env = self._model, self._env
        mujoco.mj_setState(model, data, state, _STATE_BITS)
        total, step = 0.0, len(self._done)
        before = self._done[-1] if self._done else np.zeros(JOINTS)
        for ahead, action in enumerate(actions):
            data.ctrl[:] = env.controls(action, data.qpos[:JOINTS])
            mujoco.mj_step(model, data, nstep=round(STEP / TIMESTEP))
            balls = np.stack([data.qpos[24:27], data.qpos[31:34]])
            if (balls[:, 2] < LOST).any():
                return total + 100.0 * (len(actions) - ahead)
            distance = np.linalg.norm(balls[:, :2] - env.target(step + ahead + 1, data), axis=1)
            total += 100.0 * distance.sum() + 3.0 * ((distance / NEAR) ** 2).sum()
            total += 300.0 * np.maximum(0.0, LOW - balls[:, 2]).sum() + 50.0 * max(0.0, data.qpos[1] - 0.1)
            total += 0.15 * ((action - before) ** 2).sum() + 0.02 * (action**2).sum()
            before = action
        return float(total)
