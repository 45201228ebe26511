"""Baoding balls: a Shadow Hand turns two balls around each other in its palm, as in PDDM and CMIL."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs.baoding_scene import CAMERA, START_HAND, START_QPOS, build_model, light_model
from envs.errors import EnvError, nearest
from envs.mujoco_env import MujocoEnvironment

JOINTS = len(START_HAND)
SUBSTEPS = 40  # of 0.0025 s
STEP = 0.1  # s
TURN = 60  # steps of the targets for one turn
NEAR = 0.02  # m, how close to its target a ball is "on" it
WARM_UP, SHARE = 10, 0.9  # from this step on, in this share of the steps, both balls must be near
FLOOR = 0.06  # m, a ball below it has fallen
MAX_SPEED = 3.0  # rad/s, how fast the commanded joint angles may leave the present ones
REACH = 0.9  # share of the way from the key pose to the end of a joint's control range that actions span
DIRECTIONS = {"ccw": (1.0,), "cw": (-1.0,), "both": (1.0, -1.0)}
ACTIONS = ("clean", "recorded")
LAYOUTS = ("proper", "recorded")

# place of the targets in the palm's frame, m: centre, and semi-axes along x and z
_CENTRE = np.array([0.005, -0.07, 0.055])
_AXES = np.array([0.02, 0.0, 0.036])
_BALL1_ANGLE = 0.75 * np.pi
_BALL_QPOS = (slice(24, 27), slice(31, 34))
_BALL_QVEL = (slice(24, 27), slice(30, 33))
_COUNTS = 7  # direction, rows judged, rows good, error sum, step of the drop, turned angle, last angle


class BaodingEnv(MujocoEnvironment):
    """24 joint positions at 10 Hz keep two balls on targets that circle each other once in 60 steps; 75 steps.

    The scene, key pose, targets, action scaling and reward are those of PDDM's Baoding task (see baoding_scene). In
    step k (0, 1, ...) ball 1 shall be at angle 3 pi / 4 + 2 pi k / 60 of an ellipse over the palm (semi-axes 0.02 and
    0.036 m), and ball 2 on the other side; distances are horizontal. A ball below 0.06 m ends the episode (terminal).

    Success: no drop in `limit` steps, and in at least 90 % of the steps from the 10th on both balls within 2 cm of
    their targets. Score: the share of these steps, of all that the limit allows, so that dropping early costs.
    info["measures"] tells more: the return, the mean distance of a ball to its target (cm), turns completed (signed by
    the direction asked for), and steps until the drop (all steps so far without one). Reward: -5 times each distance,
    -500 for a drop, -10 for a drop or a wrist bent beyond 0.15 rad; for evaluation only.

    State (40): hand joints 24, position of ball 1 (3), its velocity (3), the same of ball 2, target of ball 1 (x, y),
    of ball 2 (x, y); world frame, m and m/s. The targets of row t are those that step t was judged by. Layout
    "recorded" repeats a mistake of the public recordings: instead of the balls' velocities, [velocity of THJ1, of
    THJ0, of ball 1 along x] and [angular velocity of ball 1 about z, velocity of ball 2 along x, along y].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    task = "baoding"
    subtasks = ("turn",)
    camera = CAMERA

    def __init__(
        self,
        *,
        obs: str = "pixels",
        render: str = "fast",
        direction: str = "ccw",
        actions: str = "clean",
        layout: str = "proper",
        limit: int = 75,
        start_noise: float = 0.02,
        tremble: float = 0.0,
    ) -> None:
        """Build the simulation (a second).

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            direction: "ccw", "cw", or "both": drawn at each start, and told by a 41st number (1 or -1) of the state.
            actions: "clean": 0 is the key pose, 1 and -1 are 90 % of the way to the ends of a joint's range.
                "recorded": PDDM's scaling with its bug, which the public recordings need: it works in place, so what
                comes out at 0 or less is taken for an action again and scaled towards the lower end.
            layout: of the state: "proper" or "recorded" (see the class).
            limit: steps an episode: 75 in CMIL; the recordings have 120.
            start_noise: the hand's joints start within this of the key pose (rad, uniform), the balls within a tenth of
                it (m per rad); 0: exactly there, as in the recordings.
            tremble: probability per step that a uniform action is executed instead.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        for option, value, valid in (
            ("direction", direction, tuple(DIRECTIONS)),
            ("actions", actions, ACTIONS),
            ("layout", layout, LAYOUTS),
        ):
            if value not in valid:
                raise EnvError(f"baoding: unknown {option} {value!r}{nearest(str(value), valid)}")
        if direction == "both" and (obs == "pixels" or layout == "recorded"):
            raise EnvError("baoding: direction=both needs obs=state and layout=proper, which tell the direction")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit <= WARM_UP:
            raise EnvError(f"baoding: limit must be a number of steps above {WARM_UP}, got {limit!r}")
        if not (np.isfinite(start_noise) and 0.0 <= start_noise <= 0.1):
            raise EnvError(f"baoding: start_noise must lie in 0..0.1 rad, got {start_noise}")
        self.horizon = limit
        self._directions = DIRECTIONS[direction]
        self._layout, self._scaling, self._start_noise = layout, actions, start_noise
        sim = _Simulation()
        self._counts = np.zeros(_COUNTS)
        size = 40 + (direction == "both")
        super().__init__(sim, obs=obs, render=render, tremble=tremble, size=size, memory=(self._counts,))
        self._palm = self.model.body("palm").id
        low, high = self.model.actuator_ctrlrange.T
        # in the clean scaling no end lies on the wrong side of the middle: two key angles are outside their range
        self._middle = START_HAND if actions == "recorded" else np.clip(START_HAND, low, high)
        self._up, self._down = REACH * (high - self._middle), REACH * (self._middle - low)

    def commanded(self, action: np.ndarray) -> np.ndarray:
        """Return the joint angles (..., 24), in rad, that actions (..., 24) in [-1, 1] ask for."""
        values = np.asarray(action, np.float64)
        angles = self._middle + values * np.where(values > 0.0, self._up, self._down)
        if self._scaling == "clean":
            return angles
        first = np.where(values > 0.0, angles, values)
        return np.where(first <= 0.0, self._middle + first * self._down, first)

    def controls(self, action: np.ndarray, joints: np.ndarray) -> np.ndarray:
        """Return the joint angles (24,) to hold for a step: the commanded ones, or as far as 3 rad/s lead there."""
        return joints + np.clip((self.commanded(action) - joints) / STEP, -MAX_SPEED, MAX_SPEED) * STEP

    def target(self, steps: int, data: mujoco.MjData | None = None) -> np.ndarray:
        """Return the horizontal places (2, 2) of both targets, (ball, xy) in m, that step number `steps` is judged by.

        They hang on the palm as it is in `data`, by default now.
        """
        data = self.data if data is None else data
        angle = _BALL1_ANGLE + self._counts[0] * 2.0 * np.pi * max(steps - 1, 0) / TURN + np.array([0.0, np.pi])
        local = _CENTRE + np.stack([np.cos(angle), np.zeros(2), np.sin(angle)], 1) * _AXES
        return (data.xpos[self._palm] + local @ data.xmat[self._palm].reshape(3, 3).T)[:, :2]

    def _reset_sim(self) -> np.ndarray:
        mujoco.mj_resetData(self.model, self.data)
        noise = self.np_random.uniform(-self._start_noise, self._start_noise, JOINTS + 6)
        qpos = START_QPOS.copy()
        qpos[:JOINTS] += noise[:JOINTS]
        for place, moved in zip(_BALL_QPOS, (noise[JOINTS : JOINTS + 3], noise[JOINTS + 3 :]), strict=True):
            qpos[place] += 0.1 * moved
        self.data.qpos[:] = qpos
        mujoco.mj_forward(self.model, self.data)
        self._counts[:] = 0.0
        self._counts[0] = self._directions[0] if len(self._directions) == 1 else self.np_random.choice(self._directions)
        self._counts[6] = self._angle()
        return self._sense()

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        self.data.ctrl[:] = self.controls(action, self.data.qpos[:JOINTS])
        mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)
        distances = np.linalg.norm(self._balls()[:, :2] - self.target(self._steps), axis=1)
        fallen = bool((self._balls()[:, 2] < FLOOR).any())
        self._judge(distances, fallen)
        bent = bool(self.data.qpos[1] > 0.15)
        reward = -5.0 * float(distances.sum()) - 500.0 * fallen - 10.0 * (fallen or bent)
        counts = self._counts
        kept = self._steps >= self.horizon and not counts[4]
        return self._sense(), reward, fallen, bool(kept and counts[2] >= SHARE * counts[1])

    def _judge(self, distances: np.ndarray, fallen: bool) -> None:
        """Count what the measures need after a step, from the balls' distances (2,) to their targets."""
        counts = self._counts
        if self._steps >= WARM_UP and not counts[4]:
            counts[1] += 1
            counts[2] += bool((distances < NEAR).all() and not fallen)
        counts[3] += distances.mean()
        if fallen and not counts[4]:
            counts[4] = self._steps
        angle = self._angle()
        counts[5] += (angle - counts[6] + np.pi) % (2.0 * np.pi) - np.pi
        counts[6] = angle

    def _sense(self) -> np.ndarray:
        qpos, qvel = self.data.qpos, self.data.qvel
        speeds = _BALL_QVEL if self._layout == "proper" else (slice(22, 25), slice(29, 32))
        parts = [qpos[:JOINTS]]
        for place, speed in zip(_BALL_QPOS, speeds, strict=True):
            parts += [qpos[place], qvel[speed]]
        parts += [self.target(self._steps).ravel()]
        if len(self._directions) > 1:
            parts += [self._counts[:1]]
        return np.concatenate(parts)

    def _place(self, values: np.ndarray) -> None:
        direction = self._counts[0] or self._directions[0]
        self._counts[:] = 0.0
        self._counts[0] = direction
        super()._place(values)
        self._counts[6] = self._angle()
        self._vector = self._sense().astype(np.float32)  # again: the targets go by the clock that is known only now

    def _info(self) -> dict[str, Any]:
        counts = self._counts
        turns = counts[0] * counts[5] / (2.0 * np.pi)
        measures = {
            "return": self._return,
            "error": float(100.0 * counts[3] / max(self._steps, 1)),
            "turns": float(turns),
            "kept": float(counts[4] or self._steps),
        }
        return super()._info() | {"measures": measures}

    def _score(self) -> float:
        return float(self._counts[2] / (self.horizon - WARM_UP + 1))

    def _drawn(self) -> mujoco.MjModel:
        return light_model() if self.render_style == "fast" else self.model

    def _balls(self) -> np.ndarray:
        """Return the positions (2, 3) of the balls, world frame, m."""
        return np.stack([self.data.qpos[place] for place in _BALL_QPOS])

    def _angle(self) -> float:
        """Return the direction from ball 2 to ball 1 seen from above, rad."""
        x, y = (self._balls()[0] - self._balls()[1])[:2]
        return float(np.arctan2(y, x))


def placed(vectors: np.ndarray) -> np.ndarray:
    """Return what set_state takes, (..., 74) float64, from state vectors (..., 40) of either layout, at rest.

    Velocities and the balls' rotations are zero, and the clock is left out: enough to draw, as nothing shows them.
    """
    qpos = np.broadcast_to(START_QPOS, (*vectors.shape[:-1], len(START_QPOS))).copy()
    qpos[..., :JOINTS] = vectors[..., :JOINTS]
    for place, start in zip(_BALL_QPOS, (24, 30), strict=True):
        qpos[..., place] = vectors[..., start : start + 3]
    return np.concatenate([qpos, np.zeros((*vectors.shape[:-1], 36))], -1)


class _Simulation:
    """Model and data with what MujocoEnvironment asks of a package's environment."""

    def __init__(self) -> None:
        """Compile the scene."""
        self.model = build_model()
        self.data = mujoco.MjData(self.model)
        self.dt = STEP
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (JOINTS,), np.float32)
        self.np_random = np.random.default_rng()

    def close(self) -> None:
        """Nothing to free."""
