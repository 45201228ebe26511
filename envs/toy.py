"""Two environments that need no simulator: CountEnv checks time alignment, LineEnv can be learned in seconds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.base import Environment, observations, wants_pictures
from envs.errors import EnvError

LINE_GOAL = 0.5
LINE_SPEED = 0.1
LINE_TOLERANCE = 0.1
_SIZE = 64


def count_expert(state: np.ndarray) -> np.ndarray:
    """Return the action (1,) that CountEnv expects in state [t]: (t + 1) / 20, so it names the step and is never 0.

    An action that is paired with the wrong row is therefore off by at least 0.05, and padding (0) is never right.
    """
    return np.array([(float(state[0]) + 1.0) / CountEnv.horizon], np.float32)


def line_expert(state: np.ndarray) -> np.ndarray:
    """Return the action (1,) that moves LineEnv's point at state [x] to the goal as fast as the speed limit allows."""
    return np.clip((LINE_GOAL - state[:1]) / LINE_SPEED, -1.0, 1.0).astype(np.float32)


def count_from_image(image: np.ndarray) -> int:
    """Return the step number in a picture (size, size, 3) of CountEnv: the index of its bright cell, row-major."""
    cell = image.shape[0] // 8
    cells = image[: 8 * cell, : 8 * cell, 0].reshape(8, cell, 8, cell).mean((1, 3))
    return int(cells.argmax())


class ToyEnv(Environment):
    """What both toys share: one action, one state entry, one subtask, pictures drawn with numpy.

    Subclasses give `_start`, `_move`, `_solved`, `_draw`. The simulator state is [steps, x, good steps, solved].
    """

    dt = 0.05

    def __init__(self, *, obs: str = "state", render: str = "fast") -> None:
        """Make it. obs: "pixels" (64, 64, 3) uint8 or "state" (1,) float32; both `render` styles look the same."""
        self._pixels = wants_pictures(self.task, obs)
        self.render_style = render
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = observations(self._pixels, 1)
        self._steps = 0
        self._x = 0.0
        self._good = 0
        self._done = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, or continue from options["sim_state"] exactly; return (obs, info)."""
        super().reset(seed=seed)
        self._steps, self._good, self._done = 0, 0, False
        self._x = self._start()
        if options and options.get("sim_state") is not None:
            self.set_state(options["sim_state"])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply `action` (1,), clipped to [-1, 1]; the reward is 1 for a good step, for evaluation only."""
        values = np.asarray(action, np.float64)
        if values.shape != (1,) or not np.isfinite(values).all():
            raise EnvError(f"{self.task}: an action is a finite array of shape (1,), got {action!r}")
        good = self._move(float(np.clip(values[0], -1.0, 1.0)))
        self._steps += 1
        self._good += int(good)
        truncated = self._steps >= self.horizon
        self._done = self._done or (truncated and self._solved())
        return self._observe(), float(good), False, truncated, self._info()

    def get_state(self) -> np.ndarray:
        """Return the whole state (4,) float64: steps so far, x, good steps so far, solved."""
        return np.array([self._steps, self._x, self._good, self._done], np.float64)

    def set_state(self, state: np.ndarray) -> None:
        """Continue exactly from what get_state returned; EnvError for another shape."""
        values = np.asarray(state, np.float64)
        if values.shape != (4,):
            raise EnvError(f"{self.task}: a simulator state has shape (4,), got {values.shape}")
        self._steps, self._x, self._good, self._done = int(values[0]), float(values[1]), int(values[2]), bool(values[3])

    def render(self, size: int = _SIZE) -> np.ndarray:
        """Return the picture (size, size, 3) uint8; size is a multiple of 8."""
        if size < 8 or size % 8:
            raise EnvError(f"{self.task}: the picture size must be a multiple of 8, got {size}")
        return self._draw(size)

    def _observe(self) -> np.ndarray:
        """Return the picture or the state, as chosen."""
        return self.render() if self._pixels else self._state()

    def _info(self) -> dict[str, Any]:
        """Return the facts that every environment reports with each row."""
        return {
            "state": self._state(),
            "tasks_done": np.array([float(self._done)], np.float32),
            "score": self._good / self.horizon,
            "success": self._done,
        }

    def _start(self) -> float:
        """Draw the first x."""
        raise NotImplementedError

    def _move(self, action: float) -> bool:
        """Change x by the action in [-1, 1]; return whether this was a good step."""
        raise NotImplementedError

    def _state(self) -> np.ndarray:
        """Return the observation vector (1,) float32."""
        return np.array([self._x], np.float32)

    def _solved(self) -> bool:
        """Return whether an episode that ends now counts as success."""
        raise NotImplementedError

    def _draw(self, size: int) -> np.ndarray:
        """Draw the state as (size, size, 3) uint8."""
        raise NotImplementedError


class CountEnv(ToyEnv):
    """The observation is the step number t, so any off-by-one in storage, replay or pairs shows at once.

    State [t]; picture: an 8 x 8 grid whose cell t (row-major) is white. A step is good if its action is within 0.02 of
    count_expert([t]); score: share of the 20 steps that were good; success: all of them were.
    """

    task = "count"
    subtasks = ("count",)
    horizon = 20

    def _start(self) -> float:
        return 0.0

    def _move(self, action: float) -> bool:
        good = abs(action - float(count_expert(self._state())[0])) < 0.02
        self._x += 1.0
        return good

    def _solved(self) -> bool:
        return self._good == self.horizon

    def _draw(self, size: int) -> np.ndarray:
        image = np.full((size, size, 3), 40, np.uint8)
        cell = size // 8
        row, column = divmod(int(self._x), 8)
        image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 255
        return image


class LineEnv(ToyEnv):
    """A point on [-1, 1] moves by 0.1 a per step and shall stop at 0.5; it starts anywhere, 30 steps.

    State [x]; picture: a bright square (a quarter of the width) at x in front of a green bar at the goal. A step is
    good if it ends within 0.1 of the goal; score: share of the 30 steps that were good; success: the last one was.
    """

    task = "line"
    subtasks = ("reach",)
    horizon = 30

    def _start(self) -> float:
        return float(self.np_random.uniform(-1.0, 1.0))

    def _move(self, action: float) -> bool:
        self._x = float(np.clip(self._x + LINE_SPEED * action, -1.0, 1.0))
        return self._at_goal()

    def _at_goal(self) -> bool:
        """Return whether x is within the tolerance of the goal."""
        return abs(self._x - LINE_GOAL) < LINE_TOLERANCE

    def _solved(self) -> bool:
        return self._at_goal()

    def _draw(self, size: int) -> np.ndarray:
        ink = np.full((size, size, 3), 30.0)
        _blend(ink, slice(0, size), LINE_GOAL, size / 10, np.array([40.0, 140.0, 60.0]))
        _blend(ink, slice(size * 3 // 8, size * 5 // 8), self._x, size / 4, np.array([255.0, 230.0, 200.0]))
        return np.rint(ink).astype(np.uint8)


def _blend(ink: np.ndarray, rows: slice, x: float, width: float, color: np.ndarray) -> None:
    """Paint a bar `width` pixels wide for x in [-1, 1] into `rows`, with soft edges, so that x shows below a pixel."""
    size = ink.shape[1]
    left = (x + 1.0) / 2.0 * (size - width)
    edges = np.arange(size + 1, dtype=np.float64)
    cover = np.clip(np.minimum(edges[1:], left + width) - np.maximum(edges[:-1], left), 0.0, 1.0)[None, :, None]
    ink[rows] = ink[rows] * (1.0 - cover) + cover * color
