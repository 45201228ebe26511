"""Scripted expert of Franka Kitchen, recorded: ``python -m demos.experts.kitchen out=DIR episodes=10 seed=0``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos import cli
from demos.experts.arm import JOINTS, Arm, rotation_error, tool_rotation, turned
from demos.experts.kitchen_legs import Kitchen, Leg, Way, limited, postures
from demos.experts.recording import fill
from envs.episode import Episode, EpisodeBuilder
from envs.make import make

LOOK = 0.05  # m that the tool aims ahead on its way: rounds corners, and pulls it back to the way
TURN_GAIN, TURN_LIMIT = 3.0, 0.8  # 1/s, rad/s
POSTURE_GAIN = 2.0  # 1/s
JOINT_SPEED = np.array([0.6] * 4 + [0.75] * 3)  # rad/s; the whole motion is slowed until every joint obeys
STRONGEST = 0.95  # largest arm action
PATIENCE, STALLED = 8, 25  # steps at a way's end with the work undone; steps without progress
SIM_JOINTS = slice(1, 1 + JOINTS)  # where the arm lies in a simulator state, after the time
SIM_READING = slice(98, 98 + JOINTS)  # the joint reading that the controller starts from


@dataclass(frozen=True)
class Disturbance:
    """What the recording adds to the expert's actions, so that demonstrations show how to come back to the way.

    Attributes:
        start: the arm's start joints are moved by up to this (rad, uniform).
        drift: standard deviation of the smooth zero-mean noise on the arm's actions (Ornstein-Uhlenbeck, time constant
            about 5 steps).
        push_chance: chance per step that a push begins.
        push: a push adds up to this (uniform, per joint, constant) to the arm's actions for 3 to 8 steps.
    """

    start: float = 0.06
    drift: float = 0.05
    push_chance: float = 1 / 60
    push: float = 0.4


class KitchenExpert:
    """Steers the hand along legs (see kitchen_legs) from wherever the arm is: actions come from the present state.

    Only the leg and the progress along it are remembered: a disturbed arm returns to its way, a failed leg is repeated.
    """

    source = "scripted expert"

    def __init__(self, seed: int = 0) -> None:
        """Choose the generator of the small differences in way and speed between episodes."""
        self._rng = np.random.default_rng(seed)
        self.log: list[tuple[int, str]] = []

    def reset(self, env: gymnasium.Env[Any, Any]) -> None:
        """Plan for the present state of a Kitchen environment (a third of a second)."""
        sim: Any = env.unwrapped
        self._arm = Arm(sim.model)
        self._kitchen = Kitchen(sim.model)
        self._legs: tuple[Leg, ...] = Way(self._kitchen, self._rng).legs
        self._postures = postures(self._kitchen, self._arm)
        self._pace = self._rng.uniform(0.9, 1.1)
        self._steps = 0
        self.log = []  # (step, leg) at every beginning of a leg
        self._begin(0, sim.data.qpos)

    @property
    def leg(self) -> Leg:
        """The present leg."""
        return self._legs[self._index]

    def act(self, env: gymnasium.Env[Any, Any]) -> np.ndarray:
        """Return the action (9,) float64 for the environment's present state; call once per step."""
        sim: Any = env.unwrapped
        qpos = sim.data.qpos
        joints = qpos[:JOINTS].copy()
        point, rotation = self._arm.place(joints)
        self._progress(point)
        following = self._following(qpos, point)
        if following is not None:
            self._go_on(following, qpos)
        self._steps += 1
        goal, wanted, posture = self._at(self._along + LOOK)
        error = goal - point
        linear = error / max(float(np.linalg.norm(error)), LOOK) * self.leg.speed * self._pace
        angular = limited(rotation_error(wanted, rotation) * TURN_GAIN, TURN_LIMIT)
        velocity = self._arm.joint_velocity(joints, linear, angular, POSTURE_GAIN * (posture - joints))
        velocity /= max(1.0, float((np.abs(velocity) / JOINT_SPEED).max()))
        arm = np.clip(self._arm.action(joints, velocity), -STRONGEST, STRONGEST)
        return np.append(arm, [self.leg.fingers] * 2)

    def _go_on(self, index: int, qpos: np.ndarray) -> None:
        """Begin another leg; after the last one the hand stays where it is."""
        if index < len(self._legs):
            self._begin(index, qpos, again=index <= self._index)

    def _begin(self, index: int, qpos: np.ndarray, again: bool = False) -> None:
        """Start a leg where the arm is; `again`: step back along the fingers first, and pass its last poses only."""
        self._index = index
        joints = qpos[:JOINTS].copy()
        point, rotation = self._arm.place(joints)
        poses, ahead = self.leg.poses(qpos), list(self._postures[index])
        way = [(point, rotation, joints)]
        if again:
            way.append((point - 0.14 * rotation[:, 2], rotation, joints))
            kept = 2 if index == 0 else 1
            poses, ahead = poses[-kept:], ahead[-kept:]
        way += [(p, tool_rotation(yaw, pitch), q) for (p, yaw, pitch), q in zip(poses, ahead, strict=True)]
        self._points, self._rotations, self._joints = (np.array(part) for part in zip(*way, strict=True))
        lengths = np.linalg.norm(np.diff(self._points, axis=0), axis=1)
        self._distance = np.concatenate([[0.0], np.cumsum(lengths)])
        self._along = self._best = 0.0
        self._waited = self._stalled = 0
        self.log.append((self._steps, self.leg.name))

    def _at(self, along: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tool point (3,), rotation (3, 3) and joint angles (7,) `along` m from the leg's beginning."""
        along = float(np.clip(along, 0.0, self._distance[-1]))
        k = min(int(np.searchsorted(self._distance, along, side="right")) - 1, len(self._points) - 2)
        part = (along - self._distance[k]) / max(self._distance[k + 1] - self._distance[k], 1e-6)
        turn = rotation_error(self._rotations[k + 1], self._rotations[k])
        return (
            self._points[k] + part * (self._points[k + 1] - self._points[k]),
            turned(self._rotations[k], part * turn),
            self._joints[k] + part * (self._joints[k + 1] - self._joints[k]),
        )

    def _progress(self, point: np.ndarray) -> None:
        """Move on to the nearest place of the way within the next 6 cm; never back."""
        places = np.linspace(self._along, min(self._along + 0.06, self._distance[-1]), 13)
        self._along = float(places[np.argmin([np.linalg.norm(self._at(place)[0] - point) for place in places])])

    def _following(self, qpos: np.ndarray, point: np.ndarray) -> int | None:
        """Return the leg to begin now, or None to go on with this one."""
        left = self._distance[-1] - self._along
        following = None
        if self.leg.done is not None:
            if self.leg.done(qpos):
                following = self._index + 1
            else:
                self._waited += left < 0.02
                if self._waited > PATIENCE:
                    following = self._index + (1 if self.leg.enough(qpos) else -1)
        elif left < 0.015 and np.linalg.norm(self._points[-1] - point) < 0.03:
            following = self._index + 1
        if self._along > self._best + 0.004:
            self._best, self._stalled = self._along, 0
        else:
            self._stalled += 1
        if following is None and self._stalled > STALLED and self._index < len(self._legs) - 1:
            following = self._index
        return following


def record(
    env: gymnasium.Env[Any, Any],
    seed: int,
    disturbance: Disturbance | None = None,
    expert: KitchenExpert | None = None,
) -> Episode:
    """Record one episode of a Kitchen environment with pictures.

    The environment's noise is whatever it was made with. Replay: reset(seed=seed, options={"sim_state": row 0}), then
    the recorded actions.

    Args:
        env: made by envs.make("kitchen", "pixels").
        seed: of the environment, the expert, and the disturbances.
        disturbance: what is added to the expert's actions; None: the shipped episodes' amounts.
        expert: who acts; None: the one that finishes every subtask in order.

    Returns:
        Episode of `horizon` steps; meta: seed, subtasks, done_at {subtask: step at which it was completed}.
    """
    amount = disturbance or Disturbance()
    sim: Any = env.unwrapped
    rng = np.random.default_rng([seed, 7])
    image, info = env.reset(seed=seed, options={"sim_state": _moved_start(env, seed, rng, amount.start)})
    expert = expert or KitchenExpert(seed)
    expert.reset(env)
    meta = {"task": "kitchen", "source": expert.source, "seed": seed, "subtasks": list(sim.subtasks)}
    builder = EpisodeBuilder(meta)
    builder.start({"image": image, "state": info["state"]}, sim.get_state())
    drift, push, left = np.zeros(JOINTS), np.zeros(JOINTS), 0
    done_at: dict[str, int] = {}
    for step in range(1, sim.horizon + 1):
        action = expert.act(env)
        drift = 0.8 * drift + 0.6 * amount.drift * rng.normal(size=JOINTS)
        if left == 0 and rng.random() < amount.push_chance:
            left = int(rng.integers(3, 9))
            push = rng.uniform(-amount.push, amount.push, JOINTS)
        action[:JOINTS] += drift + (push if left else 0.0)
        left = max(0, left - 1)
        executed = np.clip(action, -1, 1).astype(np.float32)
        image, _, _, _, info = env.step(executed)
        builder.add(executed, {"image": image, "state": info["state"]}, sim_state=sim.get_state())
        for name, done in zip(sim.subtasks, info["tasks_done"], strict=True):
            if done:
                done_at.setdefault(name, step)
    builder.meta["done_at"] = done_at
    return builder.finish()


def told(episode: Episode) -> str:
    """What to print of an episode."""
    done_at = episode.meta["done_at"]
    subtasks = f"{len(done_at)}/{len(episode.meta['subtasks'])} subtasks"
    return f"{subtasks}, last at step {max(done_at.values(), default=0)}"


def _moved_start(env: gymnasium.Env[Any, Any], seed: int, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Return the simulator state after reset(seed) with the arm's joints moved by up to `amount` rad, within limits."""
    sim: Any = env.unwrapped
    env.reset(seed=seed)
    state = sim.get_state()
    low, high = sim.model.jnt_range[:JOINTS].T
    joints = np.clip(state[SIM_JOINTS] + rng.uniform(-amount, amount, JOINTS), low, high)
    state[SIM_READING] += joints - state[SIM_READING]
    state[SIM_JOINTS] = joints
    return state


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    episodes: int = 10
    seed: int = 0


def body(options: Options) -> None:
    """Record until `episodes` verified episodes are saved, after those that are there."""
    if options.episodes < 1:
        raise cli.UsageError(f"episodes={options.episodes}: expected at least 1")

    env, replay = make("kitchen", "pixels"), make("kitchen", "state")
    fill(options.out, options.episodes, options.seed, lambda seed: record(env, seed), replay, told)
    env.close()
    replay.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(body, Options, argv, "python -m demos.experts.kitchen out=DIR [episodes=10] [seed=0]")


if __name__ == "__main__":
    raise SystemExit(main())
