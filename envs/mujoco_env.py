"""What the MuJoCo suites share: exact save and restore, episode clock, trembling hand, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs.base import Environment, observations, wants_pictures
from envs.errors import EnvError
from envs.mujoco_scene import SceneFrames, published_contacts
from envs.wrappers import check_tremble, trembled

# what MuJoCo needs to go on exactly: time, positions, velocities, activations; the solver's warm start; the controls
_STATE_BITS = int(
    mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART | mujoco.mjtState.mjSTATE_CTRL
)


class MujocoEnvironment(Environment):
    """A package's MuJoCo environment behind this project's contract.

    A subclass gives `_reset_sim`, `_step_sim` and `_sense`, and may give `_score`. Actions are clipped to [-1, 1] and
    stretched over the package's box. With tremble > 0, the hand draws from the environment's generator, as starts do,
    so a seed decides everything; a state does not hold the generator, so a continuation is exact without trembling.

    Simulator state, float64: MuJoCo's (time, positions, velocities, activations, warm start, controls), scene, memory,
    observation, steps, return, done. set_state also takes what datasets store, [qpos, qvel, scene] and
    [qpos, qvel, scene, steps]: the clock starts at `steps` (0), return and done at 0, and what the package measures one
    physics step late (Adroit: positions of bodies and sites) is up to date in the first observation.

    Attributes:
        camera: the model's own camera that draws the pictures, by name or number.
        mended: whether the model is one of gymnasium's, which needs what envs.mujoco_scene mends: contacts as in the
            published data, and floors drawn far enough.
    """

    camera: str | int
    mended = True

    def __init__(
        self,
        sim: Any,
        *,
        obs: str,
        render: str,
        tremble: float,
        size: int,
        scene: Sequence[np.ndarray] = (),
        memory: Sequence[np.ndarray] = (),
    ) -> None:
        """Wrap `sim`.

        Args:
            sim: the package's environment, with `model`, `data`, `dt` of MuJoCo, and gymnasium's methods.
            obs: "pixels" (64, 64, 3) uint8 or "state" (size,) float32.
            render: "fast" or "faithful" pictures.
            tremble: probability per step that a uniform action is executed instead.
            size: length of the state vector.
            scene: views of model arrays that differ between episodes, such as the place of the door.
            memory: views of other arrays that the package's next step reads.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        self.render_style = render
        self._pixels = wants_pictures(self.task, obs)
        self._sim = sim
        self.dt = float(sim.dt)
        self._tremble = check_tremble(self.task, tremble)
        self._scene, self._memory = tuple(scene), tuple(memory)
        if self.mended:
            published_contacts(self.model)
        self._physics_size = mujoco.mj_stateSize(self.model, _STATE_BITS)
        self._steps = 0
        self._return = 0.0
        self._done = False
        self._vector = np.zeros(size, np.float32)
        self._frames: dict[int, SceneFrames] = {}
        self._box: gymnasium.spaces.Box = sim.action_space
        low, high = (x.astype(np.float64) for x in (self._box.low, self._box.high))
        self._centre, self._half = (high + low) / 2, (high - low) / 2
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._box.shape, np.float32)
        self.observation_space = observations(self._pixels, size)
        if self._pixels:
            self._frames_of(64)  # fail now, not at the first reset, if nothing can draw

    @property
    def model(self) -> mujoco.MjModel:
        """Return the physics model."""
        return self._sim.model

    @property
    def data(self) -> mujoco.MjData:
        """Return the simulation's data; reading is safe, write through set_state."""
        return self._sim.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, or continue from options["sim_state"] and its clock; return (obs, info)."""
        super().reset(seed=seed)
        self._sim.np_random = self.np_random  # one stream for starts and hand: two of the same seed would be equal
        self._steps, self._return, self._done = 0, 0.0, False
        self._vector = np.asarray(self._reset_sim(), np.float32)
        if options and options.get("sim_state") is not None:
            self.set_state(options["sim_state"])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Execute `action` (A,) in [-1, 1], clipped; the reward is the package's, for evaluation only."""
        values = np.asarray(action, np.float64)
        space = self._box
        if values.shape != space.shape or not np.isfinite(values).all():
            raise EnvError(f"{self.task}: an action is a finite array of shape {space.shape}, got {action!r}")
        wanted = self._centre + self._half * np.clip(values, -1.0, 1.0)
        executed = trembled(wanted, self._tremble, space, self.np_random)
        self._steps += 1
        vector, reward, terminated, done = self._step_sim(executed)
        self._vector = np.asarray(vector, np.float32)
        self._return += reward
        self._done = self._done or done
        return self._observe(), reward, terminated, self._steps >= self.horizon, self._info()

    def get_state(self) -> np.ndarray:
        """Return the whole simulator state (S,) float64; the class docstring says what is in it."""
        physics = np.empty(self._physics_size, np.float64)
        mujoco.mj_getState(self.model, self.data, physics, _STATE_BITS)
        kept = [array.ravel() for array in (*self._scene, *self._memory)]
        return np.concatenate([physics, *kept, self._vector, [self._steps, self._return, self._done]])

    def set_state(self, state: np.ndarray) -> None:
        """Continue from get_state's vector or a dataset's (see the class). EnvError for any other length, or NaN."""
        values = np.asarray(state, np.float64)
        full = self._physics_size + _size((*self._scene, *self._memory)) + self._vector.size + 3
        short = self.model.nq + self.model.nv + _size(self._scene)
        if values.shape not in ((full,), (short,), (short + 1,)) or not np.isfinite(values).all():
            raise EnvError(
                f"{self.task}: a simulator state is a finite array of shape ({full},), or ({short},) for "
                f"[qpos, qvel{', scene' if self._scene else ''}], or ({short + 1},) with the steps so far; "
                f"got {values.shape}"
            )
        mujoco.mj_resetData(self.model, self.data)
        if len(values) == full:
            self._restore(values)
        else:
            self._place(values)

    def render(self, size: int = 64) -> np.ndarray:
        """Return the picture of the current state, (size, size, 3) uint8; raises RenderingError if nothing can draw."""
        return self._frames_of(size).draw(self.model, self.data.qpos)

    def close(self) -> None:
        """Close the simulation and free its renderers."""
        for frames in self._frames.values():
            frames.close()
        self._frames.clear()
        self._sim.close()

    def _restore(self, values: np.ndarray) -> None:
        """Go back to what get_state returned."""
        physics, rest = np.split(values, [self._physics_size])
        kept = (*self._scene, *self._memory)
        _write(kept, rest)
        mujoco.mj_setState(self.model, self.data, physics, _STATE_BITS)
        mujoco.mj_forward(self.model, self.data)
        # forward has changed part of the memory and, before MuJoCo 3.3.6, the warm start
        _write(kept, rest)
        mujoco.mj_setState(self.model, self.data, physics, _STATE_BITS)
        self._vector = rest[_size(kept) : -3].astype(np.float32)
        self._steps, self._return, self._done = int(rest[-3]), float(rest[-2]), bool(rest[-1])

    def _place(self, values: np.ndarray) -> None:
        """Put the joints, and the scene, where a dataset says."""
        nq, nv = self.model.nq, self.model.nv
        _write(self._scene, values[nq + nv :])
        self.data.qpos[:], self.data.qvel[:] = values[:nq], values[nq : nq + nv]
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_rnePostConstraint(self.model, self.data)  # contact forces, which some observations hold
        self._vector = np.asarray(self._sense(), np.float32)
        has_clock = len(values) > nq + nv + _size(self._scene)
        self._steps, self._return, self._done = int(values[-1]) if has_clock else 0, 0.0, False

    def _frames_of(self, size: int) -> SceneFrames:
        """Return the renderer for pictures of this size, made at the first call."""
        if size not in self._frames:
            self._frames[size] = SceneFrames(
                self._drawn(), self.camera, size=size, style=self.render_style, mended=self.mended
            )
        return self._frames[size]

    def _drawn(self) -> mujoco.MjModel:
        """Return the model that is drawn; a subclass may give a lighter one with the same bodies, joints and sites."""
        return self.model

    def _observe(self) -> np.ndarray:
        """Return the picture or the vector, as chosen."""
        return self.render() if self._pixels else self._vector.copy()

    def _info(self) -> dict[str, Any]:
        """Return the facts that every environment reports with each row."""
        return {
            "state": self._vector.copy(),
            "tasks_done": np.array([float(self._done)], np.float32),
            "score": self._score(),
            "success": self._done,
        }

    def _score(self) -> float:
        """Return what evaluation reports: 1 once the task is done, unless a subclass measures something else."""
        return float(self._done)

    def _reset_sim(self) -> np.ndarray:
        """Start an episode with draws from self.np_random only; return the state vector."""
        raise NotImplementedError

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Step; self._steps already counts this step. Return state vector, reward, terminated, task done."""
        raise NotImplementedError

    def _sense(self) -> np.ndarray:
        """Return the state vector of the simulation as it is."""
        raise NotImplementedError


def _size(arrays: Sequence[np.ndarray]) -> int:
    """Return the number of entries in all arrays."""
    return sum(array.size for array in arrays)


def _write(arrays: Sequence[np.ndarray], values: np.ndarray) -> None:
    """Fill the arrays in place, in order, from the front of `values`."""
    start = 0
    for array in arrays:
        array[...] = values[start : start + array.size].reshape(array.shape)
        start += array.size
