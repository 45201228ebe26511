"""Names that make accepts, and what it says to the others."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from envs.errors import EnvError, RenderingError
from envs.make import make, task_names, task_options


def test_tasks_are_listed() -> None:
    assert {"count", "line", "kitchen"} <= set(task_names())
    assert {"subtasks", "robot_noise_ratio"} <= set(task_options("kitchen"))


@pytest.mark.parametrize(
    ("task", "obs", "options", "expected"),
    [
        ("kitchn", "state", {}, "unknown task 'kitchn'; did you mean 'kitchen'"),
        ("line", "pixel", {}, "did you mean 'pixels'"),
        ("line", "state", {"render": "slow"}, "render style"),
        ("kitchen", "state", {"subtask": ["kettle"]}, "no option 'subtask'; did you mean 'subtasks'"),
        ("kitchen", "state", {"subtasks": ["light swich"]}, "did you mean 'light switch'"),
        ("kitchen", "state", {"subtasks": []}, "one or more different names"),
        ("kitchen", "state", {"subtasks": ["kettle", "kettle"]}, "different names"),
        ("kitchen", "state", {"robot_noise_ratio": -1.0}, "robot_noise_ratio must be 0 or more"),
    ],
)
def test_mistakes_name_the_nearest(task: str, obs: str, options: dict, expected: str) -> None:
    with pytest.raises(EnvError) as caught:
        make(task, obs, **options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("obs", ["pixels", "state"])
@pytest.mark.parametrize("task", ["count", "line"])
def test_spaces_and_info_hold_the_contract(task: str, obs: str) -> None:
    env = make(task, obs)
    inner = env.unwrapped
    first, info = env.reset(seed=0)
    for _ in range(inner.horizon):
        assert env.observation_space.contains(first)
        assert info["state"].dtype == np.float32 and info["tasks_done"].shape == (len(inner.subtasks),)
        assert isinstance(info["score"], float) and isinstance(info["success"], bool)
        first, _, _, truncated, info = env.step(env.action_space.sample())
    assert truncated
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert inner.render(32).shape == (32, 32, 3)


def test_toys_and_make_import_no_simulator() -> None:
    code = (
        "import sys; from envs.make import make; make('line', 'pixels');"
        "print('mujoco' in sys.modules, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_pixels_without_a_working_backend_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # needs a display
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RenderingError, match="apt-get install libegl1 libgl1 libosmesa6"):
        make("kitchen", "pixels")


@pytest.mark.parametrize(("value", "expected"), [("off", "switches rendering off"), ("vulkan", "unknown")])
def test_unusable_backend_names_are_explained(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(RenderingError, match=expected):
        make("kitchen", "pixels")
