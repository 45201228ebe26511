"""A trot for gymnasium's Ant in any direction, and the search that found it: ``python -m demos.experts.ant``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from demos import cli
from envs.make import make

STEP = 0.05  # s, one control step
LEG_ANGLES = np.deg2rad([45.0, 135.0, 225.0, 315.0])  # rad, where legs 1 to 4 point, in the body's frame
PHASES = np.array([0.0, np.pi, 0.0, np.pi])  # rad: diagonal legs step together
YAW_GAIN, YAW_DAMPING = 2.0, 0.3  # of the turn that keeps the body's heading, 1/rad and s/rad
TRIAL_STEPS = 80  # of the search: 4 s of walking
FALLEN = 0.3  # cosine of the body's tilt


@dataclass(frozen=True)
class Gait:
    """Amplitudes of a trot whose legs follow sines: hips swing the feet sideways, ankles reach and lift.

    Attributes:
        frequency: cycles a second.
        swing: of a hip (rad) whose leg points across the way.
        reach: of an ankle (rad) whose leg points along the way.
        lift: of an ankle (rad).
        bend: mean angle of an ankle (rad), 0 straight.
        lead: how far lifting is ahead of swinging (rad).
        stiffness, damping: of the joint control, torque as a share of the largest, a rad and a rad/s.
        turn: of a hip (rad) at the strongest turn.
    """

    frequency: float = 2.14
    swing: float = 0.52
    reach: float = 0.425
    lift: float = 0.185
    bend: float = 0.905
    lead: float = -0.81
    stiffness: float = 1.0
    damping: float = 0.114
    turn: float = 0.294


# where the search begins, how widely it looks, and the bounds of sense: one column per field of Gait
_MEAN = np.array([1.5, 0.4, 0.2, 0.25, 0.87, 0.0, 1.0, 0.05, 0.2])
_SPREAD = np.array([0.7, 0.2, 0.15, 0.15, 0.15, 0.5, 0.5, 0.04, 0.15])
_LOW = np.array([0.4, 0.0, -0.5, 0.0, 0.4, -1.6, 0.1, 0.0, 0.0])
_HIGH = np.array([5.0, 1.2, 0.9, 0.9, 1.3, 1.6, 6.0, 0.4, 0.8])


class Legs:
    """Which joint is which in a model of the Ant, and the torques that make it trot."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Find hips and ankles by name, in the order of the actions."""
        joints = model.actuator_trnid[:, 0]
        names = [model.joint(joint).name for joint in joints]
        self._leg = np.array([int(name[-1]) - 1 for name in names])
        self._is_hip = np.array([name.startswith("hip") for name in names])
        self._sign = np.sign(model.jnt_range[joints].mean(1))  # an ankle bends towards the middle of its range
        self._qpos, self._qvel = model.jnt_qposadr[joints], model.jnt_dofadr[joints]

    def action(self, gait: Gait, time: float, data: mujoco.MjData, way: np.ndarray, heading: float = 0.0) -> np.ndarray:
        """Return the action (8,) float64 in [-1, 1] that goes on walking.

        Args:
            gait: how.
            time: s since the first step.
            data: the ant's present state.
            way: (2,) unit vector, where to go in the world.
            heading: rad, which way the body shall look meanwhile; the ant walks equally well to all sides.
        """
        error = heading - yaw(data.qpos)
        error = (error + np.pi) % (2 * np.pi) - np.pi
        turn = np.clip(YAW_GAIN * error - YAW_DAMPING * data.qvel[5], -1.0, 1.0)
        angle = LEG_ANGLES + yaw(data.qpos)  # in the world
        across = way[1] * np.cos(angle) - way[0] * np.sin(angle)
        along = way[0] * np.cos(angle) + way[1] * np.sin(angle)
        phase = 2 * np.pi * gait.frequency * time + PHASES
        hips = (gait.swing * across + gait.turn * turn) * np.cos(phase)
        ankles = gait.bend + gait.lift * np.sin(phase + gait.lead) - gait.reach * along * np.cos(phase)
        wanted = np.where(self._is_hip, hips[self._leg], self._sign * ankles[self._leg])
        torque = gait.stiffness * (wanted - data.qpos[self._qpos]) - gait.damping * data.qvel[self._qvel]
        return np.clip(torque, -1.0, 1.0)


def yaw(qpos: np.ndarray) -> float:
    """Return the body's heading in rad, from joint positions (15,)."""
    w, x, y, z = qpos[3:7]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def upright(qpos: np.ndarray) -> float:
    """Return the cosine of the body's tilt, 1 when level, from joint positions (15,)."""
    return float(1 - 2 * (qpos[4] ** 2 + qpos[5] ** 2))


def trial(env: Any, gait: Gait, direction: float, seed: int) -> float:
    """Return metres walked in 4 s on open floor towards `direction` (rad), less for straying, turning, and falling."""
    env.reset(seed=seed)
    legs, start = Legs(env.model), env.data.qpos[:2].copy()
    way = np.array([np.cos(direction), np.sin(direction)])
    side = np.array([-way[1], way[0]])
    for step in range(TRIAL_STEPS):
        strayed = float(side @ (env.data.qpos[:2] - start))
        aim = way - side * np.clip(strayed, -0.7, 0.7)
        env.step(legs.action(gait, step * STEP, env.data, aim / np.linalg.norm(aim)))
        if upright(env.data.qpos) < FALLEN:
            break
    moved = env.data.qpos[:2] - start
    fell = 3.0 * (upright(env.data.qpos) < FALLEN)
    return float(way @ moved - 0.5 * abs(side @ moved) - 0.5 * abs(yaw(env.data.qpos)) - fell)


def search(seed: int, rounds: int, samples: int = 20, elites: int = 5) -> Gait:
    """Find a fast gait by the cross-entropy method: mean of the best of each round, towards x and towards y."""
    env, rng = make("ant", "state", version="v4"), np.random.default_rng(seed)
    mean, spread = _MEAN, _SPREAD
    for number in range(rounds):
        tried = np.clip(mean + spread * rng.normal(size=(samples, len(mean))), _LOW, _HIGH)
        tried[0] = mean
        gaits = [Gait(*row) for row in tried.tolist()]
        scores = [(trial(env, gait, 0.0, number) + trial(env, gait, np.pi / 2, number)) / 2 for gait in gaits]
        best = tried[np.argsort(scores)[-elites:]]
        mean = 0.3 * mean + 0.7 * best.mean(0)
        spread = 0.3 * spread + 0.7 * best.std(0) + 0.01
        print(f"round {number}: best {max(scores):.2f} m, mean {scores[0]:.2f} m in 4 s", file=sys.stderr, flush=True)
    env.close()
    return Gait(*np.clip(mean, _LOW, _HIGH).round(3).tolist())


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    seed: int = 0
    rounds: int = 24


def body(options: Options) -> None:
    """Search, and print the gait."""
    if options.rounds < 1:
        raise cli.UsageError(f"rounds={options.rounds}: expected at least 1")
    for name, value in dataclasses.asdict(search(options.seed, options.rounds)).items():
        print(f"{name} {value:g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(body, Options, argv, "python -m demos.experts.ant [seed=0] [rounds=24]")


if __name__ == "__main__":
    raise SystemExit(main())
