"""task=gym: what an environment registered in Gymnasium becomes, which ones are refused, and training in one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from agent import evaluate, export, record
from agent.deploy import Deployed
from demos import dataset
from envs.errors import EnvError, RenderingError
from envs.frames import small
from envs.make import make, task_options
from envs.rendering import select_backend
from envs.vector import VectorEnv
from tests.agent.runs import local, start, state
from tests.envs.restored import actions, assert_continues

REACH = "gymnasium_robotics:FetchReach-v4"
NUMBERS = spaces.Box(-np.inf, np.inf, (2,), np.float64)
PICTURE = spaces.Box(0, 255, (96, 80, 3), np.uint8)
Register = Callable[..., str]


class Tiny(gymnasium.Env[Any, Any]):
    """Numbers (x, steps + 1, ...) and pictures of these; `told`: the info of each row, `ends`: the flags of each."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(
        self,
        seen: spaces.Space[Any] = NUMBERS,
        box: spaces.Space[Any] | None = None,
        told: tuple[dict[str, Any], ...] = (),
        ends: tuple[tuple[bool, bool], ...] = (),
        dt: Any = None,
        frame: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space, self.render_mode = seen, render_mode
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if box is None else box
        self.told, self.ends, self.frame, self.steps, self.x = told, ends, frame, 0, 0.0
        self.executed: Any = None
        if dt is not None:
            self.dt = dt

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.x = 0, float(self.np_random.uniform())
        return self.look(self.observation_space), self.row(self.told, {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.executed = action
        self.steps += 1
        self.x = 0.9 * self.x + 0.1 * float(np.mean(action))
        terminated, truncated = self.row(self.ends, (False, False))
        return self.look(self.observation_space), -self.x, terminated, truncated, self.row(self.told, {})

    def row(self, values: Any, otherwise: Any) -> Any:
        return values[self.steps] if self.steps < len(values) else otherwise

    def look(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self.look(part) for key, part in space.items()}
        if space.dtype == np.uint8:
            return self.picture(*space.shape[:2])
        values = np.arange(np.prod(space.shape)).reshape(space.shape) + self.steps
        values.flat[0] = 0
        return np.asarray(values + self.x * (values == 0), space.dtype)

    def picture(self, height: int, width: int) -> np.ndarray:
        rows, columns = np.ogrid[:height, :width]
        return np.stack([(rows * columns + 40 * self.steps + 255 * self.x) % 256] * 3, 2).astype(np.uint8)

    def render(self) -> Any:
        return self.picture(50, 100) if self.frame is None else self.frame


class Blind(Tiny):
    """Numbers alone."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self) -> None:
        super().__init__()


class Physical(Tiny):
    """One that has MuJoCo's model and data."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model = mujoco.MjModel.from_xml_string("<mujoco/>")
        self.data = mujoco.MjData(self.model)


@pytest.fixture
def register() -> Iterator[Register]:
    """Registers a Tiny (or `entry`) with its arguments for the duration of a test; gives its id."""
    ids: list[str] = []

    def add(*, steps: int | None = 6, entry: Any = Tiny, **kwargs: Any) -> str:
        ids.append(f"Tiny{len(ids)}-v0")
        gymnasium.register(ids[-1], entry, max_episode_steps=steps, kwargs=kwargs)
        return ids[-1]

    yield add
    for name in ids:
        del gymnasium.registry[name]


def gym(obs: str, id: str, **options: Any) -> Any:
    """The environment, as users make it."""
    return make("gym", obs, id=id, **options)


# ---------------------------------------------------------------------- steps, rewards, ends


def test_a_step_is_the_environments_own() -> None:
    env, theirs = gym("state", "Pendulum-v1"), gymnasium.make("Pendulum-v1")
    first, info = env.reset(seed=3)
    expected, _ = theirs.reset(seed=3)
    assert (env.task, env.subtasks, env.horizon, env.dt) == ("gym", (), 200, 0.05) and np.isnan(env.full_score)
    assert env.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert np.array_equal(first, expected) and first.dtype == np.float32
    assert info["score"] == 0.0 and info["success"] is False and info["tasks_done"].shape == (0,)
    total = 0.0
    for number, action in enumerate(actions(env, 200), start=1):
        obs, reward, terminated, truncated, info = env.step(action)
        expected, told, *_ = theirs.step(2 * action)  # its torque is in [-2, 2]
        total += float(told)
        assert np.array_equal(obs, expected) and reward == told and info["score"] == pytest.approx(total)
        assert np.array_equal(info["state"], obs) and info["success"] is False
        assert not terminated and truncated == (number == 200)


def test_actions_are_stretched_over_the_box_and_clipped(register: Register) -> None:
    low, high = np.array([[-2.0, 0.1], [-1.0, 5.0]], np.float32), np.array([[2.0, 0.7], [1.0, 5.0]], np.float32)
    env = gym("state", register(box=spaces.Box(low, high)))
    assert env.action_space.shape == (4,)
    env.reset(seed=0)
    for share, expected in ((-1, low), (1, high), (7, high), (-7, low), (0, (low + high) / 2)):
        env.step(np.full(4, share))
        executed = env._sim.executed
        assert executed.shape == (2, 2) and executed.dtype == np.float32 and np.array_equal(executed, expected)
    env.step(np.array([0.3, 0.5, 0.3, 0.5], np.float32))
    expected = np.array([[0.6, 0.55], [0.3, 5.0]], np.float32)
    assert env._sim.executed == pytest.approx(expected, abs=1e-7) and env._sim.executed[1, 0] == np.float32(0.3)
    for bad in (np.zeros(3), np.full(4, np.nan), np.zeros((2, 2))):
        with pytest.raises(EnvError, match=r"a finite array of shape \(4,\)"):
            env.step(bad)


@pytest.mark.parametrize(("steps", "horizon", "expected"), [(6, None, 6), (6, 3, 3), (6, 9, 9), (None, 4, 4)])
def test_time_truncates_at_the_horizon(register: Register, steps: int, horizon: int | None, expected: int) -> None:
    env = gym("state", register(steps=steps), horizon=horizon)
    assert env.horizon == expected
    for _ in range(2):  # and again in the next episode
        env.reset(seed=0)
        ends = [env.step(np.zeros(1))[2:4] for _ in range(expected)]
        assert ends == [(False, False)] * (expected - 1) + [(False, True)]


def test_the_environments_own_ends_are_told_apart(register: Register) -> None:
    no = (False, False)
    env = gym("state", register(ends=(no, no, (True, False), (False, True), no, no, (True, False))))
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(6)]
    assert ends == [no, (True, False), (False, True), no, no, (True, True)]


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize("value", [True, np.float32(1.0)])
def test_success_is_what_it_tells_and_stays(register: Register, key: str, value: Any) -> None:
    env = gym("state", register(told=({}, {key: False}, {key: value}, {key: False}, {"other": 1})))
    for _ in range(2):
        found = [env.reset(seed=0)[1]["success"]] + [env.step(np.zeros(1))[4]["success"] for _ in range(4)]
        assert found == [False, False, True, True, True]
    assert gym("state", register(told=({key: value},))).reset(seed=0)[1]["success"] is True


def test_a_seed_decides_an_episode_whatever_came_before() -> None:
    env, other = gym("state", REACH), gym("state", REACH)
    moves = actions(env, 10)

    def played(one: Any, seed: int) -> np.ndarray:
        return np.stack([one.reset(seed=seed)[0], *(one.step(move)[0] for move in moves)])

    first = played(env, 5)
    assert not np.array_equal(played(env, 6), first)
    assert np.array_equal(played(env, 5), first) and np.array_equal(played(other, 5), first)


@pytest.mark.parametrize(
    ("entry", "option", "expected"), [(0.02, None, 0.02), (None, None, 0.04), (0.02, 0.5, 0.5), ("odd", None, 0.04)]
)
def test_the_pace(register: Register, entry: Any, option: float | None, expected: float) -> None:
    assert gym("state", register(dt=entry), dt=option).dt == expected


def test_the_pace_where_nobody_tells(register: Register) -> None:
    assert gym("state", register(entry=Blind)).dt == 0.1


# ---------------------------------------------------------------------- observations


def test_a_dictionary_becomes_one_vector_in_gymnasiums_order(register: Register) -> None:
    env, theirs = gym("state", REACH, kwargs='{"reward_type": "dense"}'), gymnasium.make(REACH, reward_type="dense")
    assert (env.observation_space.shape, env.action_space.shape, env.horizon, env.dt) == ((16,), (4,), 50, 0.04)
    obs, _ = env.reset(seed=1)
    seen, _ = theirs.reset(seed=1)
    for move in actions(env, 3):
        assert np.array_equal(obs, spaces.flatten(theirs.observation_space, seen).astype(np.float32))
        obs, reward, *_ = env.step(move)
        seen, told, *_ = theirs.step(move)
        assert reward == told and reward != -1.0, "the dense reward"
    inner = spaces.Dict([("z", NUMBERS), ("b", spaces.Box(-9, 9, (2, 2), np.float32))])
    nested = spaces.Dict([("y", spaces.Box(0, 9, (), np.float32)), ("a", inner)])
    env = gym("state", register(seen=nested))
    obs, _ = env.reset(seed=0)
    assert np.array_equal(obs, spaces.flatten(nested, env._sim.look(nested)).astype(np.float32)) and obs.shape == (7,)


@pytest.mark.parametrize("beside", [False, True])
def test_pictures_of_the_observation(register: Register, beside: bool) -> None:
    seen = spaces.Dict({"camera": PICTURE, "joints": NUMBERS}) if beside else PICTURE
    env = gym("pixels", register(seen=seen))
    assert env.observation_space == spaces.Box(0, 255, (64, 64, 3), np.uint8)
    obs, info = env.reset(seed=0)
    for _ in range(3):
        assert np.array_equal(obs, small(env._sim.picture(96, 80))) and np.array_equal(env.render(), obs)
        assert np.array_equal(info["state"], env._sim.look(NUMBERS).astype(np.float32) if beside else [])
        before = obs.copy()
        obs, *_, info = env.step(np.zeros(1))
        assert not np.array_equal(obs, before)
    if beside:
        assert gym("state", register(seen=seen)).observation_space.shape == (2,)


def test_what_it_observes_is_numbers_and_as_many_as_it_said(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator is named, not the action that follows from what it told."""
    env = gym("state", register())
    env.reset(seed=0)
    look = env._sim.look
    for wrong, told in (
        (lambda space: look(space) * np.array([1, np.nan]), r"observation\[1\] is nan \(step 1\)"),
        (lambda space: look(space)[:1], r"an observation of 1 numbers, where its space has 2 \(step 2\)"),
    ):
        monkeypatch.setattr(env._sim, "look", wrong)
        with pytest.raises(EnvError, match=told):
            env.step(np.zeros(1))


def test_pictures_that_it_draws(register: Register) -> None:
    env = gym("pixels", register())
    obs, info = env.reset(seed=0)
    for _ in range(3):
        assert np.array_equal(obs, small(env._sim.picture(50, 100))) and np.array_equal(env.render(), obs)
        assert np.array_equal(info["state"], env._sim.look(NUMBERS).astype(np.float32))
        obs, *_, info = env.step(np.zeros(1))
    with pytest.raises(EnvError, match="pictures are 64 x 64"):
        env.render(128)
    with pytest.raises(EnvError, match="need obs=pixels"):
        gym("state", register()).render()


def test_a_picture_is_not_the_environments_buffer(register: Register) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    env = gym("pixels", register(frame=frame))
    obs, _ = env.reset(seed=0)
    env._sim.frame[:] = 9
    assert not obs.any()


# ---------------------------------------------------------------------- simulator states


def test_mujoco_goes_on_exactly_from_a_state() -> None:
    env: Any = gym("state", "Hopper-v5", horizon=12)
    assert env.full_score == 3800.0
    assert_continues(env, gym("state", "Hopper-v5", horizon=12), 12, 7)
    env.reset(seed=0)
    for move in actions(env, 7):
        env.step(move)
    moment = env.get_state()
    assert moment.dtype == np.float64
    env.reset(seed=1, options={"sim_state": moment})
    assert [env.step(np.zeros(3))[3] for _ in range(5)] == [False] * 4 + [True], "the clock goes on, too"
    for bad in (moment[:-1], moment * np.nan):
        with pytest.raises(EnvError, match="Hopper-v5: a simulator state is a finite array"):
            env.set_state(bad)


def test_a_fall_terminates() -> None:
    env = gym("state", "Hopper-v5")
    env.reset(seed=0)
    over, ends = False, []
    while not over:
        *_, terminated, truncated, info = env.step(np.ones(3))
        ends.append((terminated, truncated))
        over = terminated or truncated
    assert ends == [(False, False)] * (len(ends) - 1) + [(True, False)] and info["success"] is False


def test_the_goal_is_part_of_the_state(register: Register) -> None:
    env, other = gym("state", REACH), gym("state", REACH)
    assert_continues(env, other, 12, 5)
    goals = [one.step(np.zeros(4))[0][3:6] for one in (env, other)]
    assert np.array_equal(*goals) and goals[0].any()


def test_success_is_part_of_the_state(register: Register) -> None:
    env = gym("state", register(entry=Physical, told=({}, {"success": True})))
    for steps in (0, 1):
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.zeros(1))
        assert env.reset(seed=1, options={"sim_state": env.get_state()})[1]["success"] is (steps == 1)


@pytest.mark.parametrize(("entry", "seen"), [(Tiny, NUMBERS), (Tiny, PICTURE), (Physical, PICTURE)])
def test_others_have_no_state(register: Register, entry: Any, seen: spaces.Box) -> None:
    env = gym("pixels" if seen is PICTURE else "state", register(entry=entry, seen=seen))
    env.reset(seed=0)
    assert env.get_state().shape == (0,)
    for restore in (env.set_state, lambda state: env.reset(options={"sim_state": state})):
        with pytest.raises(EnvError, match="cannot be put into a state"):
            restore(np.zeros(0))


def test_pictures_of_mujoco() -> None:
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    frames = {"kwargs": '{"width": 80, "height": 80}'}
    env, other = gym("pixels", REACH, **frames), gym("pixels", REACH, **frames)
    assert_continues(env, other, 4, 2)
    obs, info = env.reset(seed=0)
    assert obs.shape == (64, 64, 3) and obs.std() > 10 and info["state"].shape == (16,)
    env.close()
    other.close()


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("obs", "options", "expected"),
    [
        ("state", {}, "task.options.id is missing"),
        ("state", {"id": "Pendulm-v1"}, "id=Pendulm-v1: gymnasium cannot make it: .*Did you mean: `Pendulum`"),
        (
            "pixels",
            {"id": "nowhere:Arm-v0"},
            "gymnasium cannot make it: .*No module named 'nowhere'",
        ),
        ("state", {"id": "CartPole-v1"}, r"CartPole-v1: actions are Discrete\(2\); expected a Box of real numbers"),
        ("state", {"id": "Pendulum-v1", "kwargs": "{'g': 9}"}, "kwargs={'g': 9}: not JSON"),
        ("state", {"id": "Pendulum-v1", "kwargs": "[9]"}, r"kwargs=\[9\]: expected a JSON object"),
        ("state", {"id": "Pendulum-v1", "kwargs": '{"gravity": 9}'}, "unexpected keyword argument 'gravity'"),
        ("state", {"id": "Pendulum-v1", "horizon": 0}, "task.options.horizon=0: expected a number of steps"),
        ("state", {"id": "Pendulum-v1", "horizon": 1.5}, "task.options.horizon=1.5: expected a number of steps"),
        ("state", {"id": "Pendulum-v1", "dt": 0.0}, "task.options.dt=0.0: expected the seconds"),
        ("state", {"id": "Pendulum-v1", "horizn": 5}, "no option 'horizn'; did you mean 'horizon'"),
    ],
)
def test_mistakes_are_told_in_one_line(obs: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvError, match=expected) as caught:
        make("gym", obs, **options)
    assert "\n" not in str(caught.value)


BOX = spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("obs", "registered", "expected"),
    [
        ("state", {"steps": None}, "horizon is missing: .* without max_episode_steps"),
        ("state", {"box": NUMBERS}, "expected a Box of real numbers, with bounds"),
        ("state", {"box": spaces.Box(np.array([-1.0, -np.inf]), np.ones(2), dtype=np.float64)}, "with bounds"),
        ("state", {"box": spaces.Box(0, 9, (2,), np.int64)}, "expected a Box of real numbers"),
        ("state", {"seen": spaces.Discrete(3)}, r"observations hold Discrete\(3\); expected a Box, or a Dict"),
        ("state", {"seen": spaces.Dict({"a": BOX, "b": spaces.Text(4)})}, "hold Text"),
        ("state", {"seen": spaces.Box(0, 255, (9, 9, 1), np.uint8)}, r"a picture is \(height, width, 3\) uint8"),
        ("pixels", {"seen": spaces.Box(0, 1, (9, 9, 3), np.float32)}, r"a picture is \(height, width, 3\) uint8"),
        ("state", {"seen": PICTURE}, "hold no numbers; obs=pixels"),
        ("pixels", {"seen": spaces.Dict({"a": PICTURE, "b": PICTURE})}, r"several pictures \(a, b\)"),
        ("pixels", {"frame": np.zeros((9, 9))}, r"no picture: ValueError: a frame is float64 \(9, 9\)"),
        ("pixels", {"entry": Blind}, "render_mode='rgb_array'; it has neither: TypeError: .*'render_mode'"),
    ],
)
def test_what_cannot_be_used_is_told(register: Register, obs: str, registered: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvError, match=expected) as caught:
        gym(obs, register(**registered))
    assert "\n" not in str(caught.value)


def test_pictures_of_the_observation_need_no_renderer(register: Register) -> None:
    class Camera(Blind):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = PICTURE

    assert gym("pixels", register(entry=Camera)).reset(seed=0)[0].shape == (64, 64, 3)


def test_options() -> None:
    assert task_options("gym") == {"id": "", "kwargs": "{}", "horizon": None, "dt": None}


# ---------------------------------------------------------------------- training


MODULE = """
import gymnasium
gymnasium.register("Arm-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=4)
"""


def test_processes_import_the_module_that_registers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_arm.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with VectorEnv("gym", "state", 1, options={"id": "their_arm:Arm-v0"}) as envs:
        obs, _ = envs.reset([0])
        assert (envs.horizon, obs.shape) == (4, (1, 3)) and envs.get_states().shape == (1, 0)
    assert "their_arm" not in sys.modules
    with pytest.raises(EnvError, match="worker 0 .* failed: task.options.id=their_arm:Leg-v0: gymnasium") as caught:
        VectorEnv("gym", "state", 1, options={"id": "their_arm:Leg-v0"})
    assert "\n" not in str(caught.value)


@pytest.fixture
def mine(register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A simulator's id, and episodes with pictures of a policy that saw its states, under a name of its owner's."""
    local(monkeypatch)
    name = register(told=({}, {}, {}, {"is_success": True}))
    common = ("task=gym", f"task.options.id={name}", "obs=state", "algo=expert", "demos=none", "data.length=2")
    start(tmp_path / "expert", *common, "data.batch=4", "steps=12", "eval.every=12")
    out = tmp_path / "mine"
    assert record.main([f"run={tmp_path / 'expert'}", f"out={out}", "episodes=3", "pixels=true", "device=cpu"]) == 0
    for file in sorted(out.iterdir()):
        (episode,) = dataset.read(file)
        assert set(episode.obs) == {"image", "state"} and episode.steps == 6 and episode.sim_state is None
        assert episode.meta["task"] == "gym" and episode.meta["success"] is True
        dataset.save(file, dataclasses.replace(episode, meta={"task": "arm", "source": "tests"}))
    return name, out


def test_an_exported_policy_commands_what_the_simulator_executes(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    low, high = np.array([[-2.0, 0.1], [-1.0, 5.0]], np.float32), np.array([[2.0, 0.7], [1.0, 5.0]], np.float32)
    name, run, out = register(box=spaces.Box(low, high)), tmp_path / "run", tmp_path / "policy"
    given = ("task=gym", f"task.options.id={name}", "obs=state", "algo=expert", "demos=none", "data.length=2")
    start(run, *given, "data.batch=4", "steps=6", "eval.every=6")
    assert export.main([f"run={run}", f"out={out}"]) == 0
    policy, env = Deployed.load(out), gym("state", name)
    assert policy.card["robot"]["action"]["names"] == [f"action[{number}]" for number in range(4)]
    env.reset(seed=0)
    for share in (*np.random.default_rng(0).uniform(-1, 1, (5, 4)), np.full(4, 1), np.full(4, -7)):
        env.step(share)
        np.testing.assert_allclose(policy.to_robot(share), env._sim.executed.ravel(), rtol=1e-6)


def test_recordings_of_pictures_alone_hold_nothing_else(register: Register) -> None:
    still: Any = SimpleNamespace(
        world=SimpleNamespace(initial=lambda n: None),
        act=lambda obs, action, first, carry, mode: (np.zeros((1, 1), np.float32), carry),
    )
    episode = record.played(still, gym("pixels", register(seen=PICTURE)), "image", 0, mode=True)
    assert set(episode.obs) == {"image"} and episode.steps == 6 and episode.sim_state is None


@pytest.mark.parametrize(("obs", "algo"), [("state", "hype"), ("pixels", "cmil")])
def test_a_cycle_of_training(
    mine: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], obs: str, algo: str
) -> None:
    name, demos = mine
    run = tmp_path / "run"
    length = (
        ["data.length=4", "policy.horizon=3", "data.updates_per_step=0.2"] if obs == "pixels" else ["data.length=2"]
    )
    given = ("task=gym", f"task.options.id={name}", f"obs={obs}", f"algo={algo}", f"demos={demos}", *length)
    start(run, *given, 'task.options.kwargs={"dt":0.5}', "steps=18", "eval.every=18", "data.seed_steps=6")
    assert state(run)["counters"]["env_steps"] == 18 and state(run)["counters"]["updates"] > 0
    capsys.readouterr()
    assert evaluate.main([f"run={run}", "episodes=2", "envs=1", "videos=false"]) == 0
    told = capsys.readouterr().out
    assert "success as the environment tells it in its info" in told and "│ success" in told
