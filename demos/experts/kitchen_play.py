"""Play in Franka Kitchen, recorded: ``python -m demos.experts.kitchen_play out=DIR episodes=40 seed=0``.

Transitions of any quality for methods that learn from recorded data (``dataset=DIR``): the expert's subtasks in any
order, begun anywhere, done sloppily, broken off, given up, with aimless motion in between. Pictures, states and replay
are those of the demonstrations; there are no rewards, and an episode need not succeed in anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos import cli
from demos.experts.arm import JOINTS
from demos.experts.kitchen import Disturbance, KitchenExpert, record, told
from demos.experts.kitchen_legs import CLOSED, OPEN, START, Way
from demos.experts.recording import fill
from envs.episode import Episode
from envs.make import make

# more than the demonstrations have: episodes begin elsewhere and are pushed off more often
DISTURBANCE = Disturbance(start=0.2, drift=0.08, push_chance=1 / 40, push=0.5)
LEGS = {"microwave": (0, 1, 2), "kettle": (3, 4, 5), "light switch": (6, 7), "slide cabinet": (8, 9)}
CAREFUL, SLOPPY, SLOPPY_CHANCE = 0.008, 0.04, 0.3  # m, spread of the way of an attempt; how often it is the second
BREAK_CHANCE = 1 / 120  # per step, that an attempt is broken off
PATIENCE = (60, 140)  # steps after which an attempt is given up
WANDER = (8, 40)  # steps of aimless motion after an attempt
WANDER_SPEED, HOME_GAIN = 0.35, 0.15  # standard deviation of the arm's actions; pull towards the start pose, 1/rad


class KitchenPlay(KitchenExpert):
    """Attempts at random subtasks, one after the other until the episode ends, and aimless motion between them."""

    source = "scripted play"

    def reset(self, env: gymnasium.Env[Any, Any]) -> None:
        """Plan for the present state; the first attempt may follow some aimless motion."""
        super().reset(env)
        self._all_postures, self._queue = self._postures, list[str]()
        sim: Any = env.unwrapped
        self._wandered = np.zeros(JOINTS)
        self._attempt(sim.data.qpos)
        self._wait(chance=0.5)

    def act(self, env: gymnasium.Env[Any, Any]) -> np.ndarray:
        """Return the action (9,) float64 for the environment's present state; call once per step."""
        sim: Any = env.unwrapped
        qpos = sim.data.qpos
        if self._left == 0 or self._rng.random() < BREAK_CHANCE:
            self._attempt(qpos)
            self._wait(chance=0.7)
        if self._idle > 0:
            self._idle -= 1
            self._steps += 1
            if self._idle == 0:
                self._begin(0, qpos)  # from where the arm is then
            return self._wander(qpos)
        self._left -= 1
        return super().act(env)

    def _go_on(self, index: int, qpos: np.ndarray) -> None:
        """After an attempt's last leg comes the next attempt."""
        super()._go_on(index, qpos)
        if index == len(self._legs):
            self._left = 0

    def _attempt(self, qpos: np.ndarray) -> None:
        """Begin the next subtask of a random order of some of them; when these are over, of another one."""
        if not self._queue:
            names = list(LEGS)
            self._queue = [names[i] for i in self._rng.permutation(len(names))[: self._rng.integers(1, len(names) + 1)]]
        chosen = LEGS[self._queue.pop(0)]
        sloppy = self._rng.random() < SLOPPY_CHANCE
        legs = Way(self._kitchen, self._rng, SLOPPY if sloppy else CAREFUL).legs
        self._legs = tuple(legs[i] for i in chosen)
        self._postures = [self._all_postures[i] for i in chosen]
        self._left = int(self._rng.integers(*PATIENCE))
        self._begin(0, qpos)

    def _wait(self, chance: float) -> None:
        """Perhaps move aimlessly first."""
        self._idle = int(self._rng.integers(*WANDER)) if self._rng.random() < chance else 0
        self._fingers = float(self._rng.choice([OPEN, CLOSED]))

    def _wander(self, qpos: np.ndarray) -> np.ndarray:
        noise = self._rng.normal(0.0, WANDER_SPEED, JOINTS)
        self._wandered = 0.9 * self._wandered + np.sqrt(1 - 0.9**2) * noise
        home = HOME_GAIN * (START - qpos[:JOINTS])
        return np.append(np.clip(self._wandered + home, -1, 1), [self._fingers] * 2)


def play(env: gymnasium.Env[Any, Any], seed: int) -> Episode:
    """Record one episode of play in a Kitchen environment with pictures; see `demos.experts.kitchen.record`."""
    return record(env, seed, DISTURBANCE, KitchenPlay(seed))


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    episodes: int = 40
    seed: int = 0


def body(options: Options) -> None:
    """Record until `episodes` episodes that replay are saved, after those that are there."""
    if options.episodes < 1:
        raise cli.UsageError(f"episodes={options.episodes}: expected at least 1")
    env, replay = make("kitchen", "pixels"), make("kitchen", "state")
    fill(options.out, options.episodes, options.seed, lambda seed: play(env, seed), replay, told, success=False)
    env.close()
    replay.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(body, Options, argv, "python -m demos.experts.kitchen_play out=DIR [episodes=40] [seed=0]")


if __name__ == "__main__":
    raise SystemExit(main())
