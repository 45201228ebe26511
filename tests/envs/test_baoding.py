"""Baoding: the public recordings replay, pictures match theirs, measures count, states continue exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.baoding import placed
from envs.baoding_scene import BALL_RADIUS, START_BALLS, START_HAND, START_QPOS, build_model, light_model, sphere_mesh
from envs.errors import EnvError, RenderingError
from envs.make import make, task_options
from envs.rendering import select_backend
from envs.vector import VectorEnv

AS_RECORDED = {"actions": "recorded", "layout": "recorded", "start_noise": 0.0}
# joints whose key angle is negative: PDDM's bug scales them twice
NEGATIVE = ["WRJ0", "MFJ2", "LFJ4", "LFJ3", "THJ4", "THJ1", "THJ0"]


@pytest.fixture(scope="module")
def env() -> Any:
    """A Baoding with state that starts at the key pose."""
    return make("baoding", "state", start_noise=0.0)


@pytest.fixture(scope="module")
def recordings(datasets: Path) -> list[dict[str, np.ndarray]]:
    """obs (121, 40), action (121, 24) and image (121, 128, 128, 3) of the ten public episodes; skips without them."""
    files = sorted((datasets / "cmil" / "shadowhand").glob("*.npz"))
    if not files:
        pytest.skip("public demonstrations not found: cmil/shadowhand")
    found = []
    for file in files:
        with np.load(file, allow_pickle=False) as archive:
            found.append({key: archive[key] for key in ("obs", "action", "image")})
    return found


def needs_pictures() -> None:
    """Skip where nothing can draw."""
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")


def test_contract_of_spaces_and_info(env: Any) -> None:
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and obs.shape == (40,) and env.action_space.shape == (24,)
    assert (env.task, env.horizon, env.subtasks, env.full_score) == ("baoding", 75, ("turn",), 1.0)
    assert info["tasks_done"].tolist() == [0.0] and info["score"] == 0.0 and info["success"] is False
    assert info["measures"] == {"return": 0.0, "error": 0.0, "turns": 0.0, "kept": 0.0}
    np.testing.assert_allclose(obs[:24], START_HAND, atol=1e-7)
    np.testing.assert_allclose(obs[[24, 25, 26, 30, 31, 32]], START_BALLS.ravel(), atol=1e-7)
    assert not obs[27:30].any() and not obs[33:36].any()


def test_public_recordings_replay_open_loop(recordings: list[dict[str, np.ndarray]]) -> None:
    """At least 7 of 10 keep both balls for 75 steps, with small errors; one or two more or less are chance."""
    env: Any = make("baoding", "state", limit=75, **AS_RECORDED)
    kept, succeeded, first = 0, 0, []
    for one in recordings:
        env.reset(seed=0)
        over = False
        step = 0
        while not over:
            step += 1
            obs, _, terminated, truncated, info = env.step(one["action"][step])
            over = terminated or truncated
            if step == 1:
                first.append(np.abs(obs - one["obs"][1]))
        kept += not terminated
        succeeded += info["success"]
    assert kept >= 7 and succeeded >= 6
    errors = np.array(first)
    assert errors[:, :24].max() < 0.01  # rad
    assert errors[:, [24, 25, 26, 30, 31, 32]].max() < 0.002  # m
    assert errors[:, 36:].max() < 5e-5, "targets of the same time, on a palm at the same place"
    # blocks that hold velocities of the thumb and of other axes than their names say, which only contacts can blur
    assert np.median(errors[:, [27, 28, 29, 33, 34, 35]], axis=0).max() < 0.1


def test_recordings_need_the_recorded_action_scaling(recordings: list[dict[str, np.ndarray]]) -> None:
    """One step from recorded angles, where both scalings command a joint most differently: the recorded one hits."""
    both: list[Any] = [make("baoding", "state", start_noise=0.0, actions=kind) for kind in ("recorded", "clean")]
    closer = 0
    for one in recordings:
        joints, actions = one["obs"][:-1, :24], one["action"][1:]
        held = [np.stack([env.controls(a, q) for a, q in zip(actions, joints, strict=True)]) for env in both]
        row, joint = np.unravel_index(np.abs(held[0] - held[1]).argmax(), joints.shape)
        assert abs(held[0][row, joint] - held[1][row, joint]) > 0.2
        errors = []
        for env in both:
            env.reset(seed=0, options={"sim_state": placed(one["obs"][row])})
            errors.append(abs(env.step(actions[row])[0][joint] - one["obs"][row + 1][joint]))
        closer += errors[0] < errors[1]
    assert closer >= 8


def test_pictures_are_near_the_recorded_ones(recordings: list[dict[str, np.ndarray]]) -> None:
    """Mean absolute difference of 255 at 64x64: 5 in the faithful style, 9 without shadows and reflections (fast)."""
    needs_pictures()
    limits = {"faithful": 6.5, "fast": 11.0}
    for style, limit in limits.items():
        env: Any = make("baoding", "pixels", render=style, start_noise=0.0)
        found, moved = [], []
        for one, row in zip(recordings, (0, 20, 47, 75, 105), strict=False):
            env.set_state(placed(one["obs"][row]))
            recorded = one["image"][row].reshape(64, 2, 64, 2, 3).mean((1, 3))
            found.append(np.abs(env.render(64) - recorded).mean())
            env.set_state(placed(one["obs"][(row + 30) % 121]))
            moved.append(np.abs(env.render(64) - recorded).mean())
        env.close()
        assert np.mean(found) < limit, style
        assert np.mean(moved) > np.mean(found) + 2, "another moment's picture is further away"


def test_actions_scale_as_documented(env: Any) -> None:
    low, high = env.model.actuator_ctrlrange.T
    middle = np.clip(START_HAND, low, high)
    np.testing.assert_allclose(env.commanded(np.zeros(24)), middle)
    np.testing.assert_allclose(env.commanded(np.ones(24)), middle + 0.9 * (high - middle))
    np.testing.assert_allclose(env.commanded(-np.ones(24)), middle - 0.9 * (middle - low))
    recorded: Any = make("baoding", "state", **AS_RECORDED)
    names = [env.model.joint(i).name for i in range(24)]
    negative = np.array([name in NEGATIVE for name in names])
    assert np.array_equal(negative, START_HAND < 0)
    zero = recorded.commanded(np.zeros(24))
    np.testing.assert_allclose(zero, START_HAND)
    # a small positive action of a joint with a negative key angle: scaled up, found negative, and scaled again
    small = np.full(24, 0.05)
    once = START_HAND + 0.05 * 0.9 * (high - START_HAND)
    twice = START_HAND + once * 0.9 * (START_HAND - low)
    np.testing.assert_allclose(recorded.commanded(small), np.where(once <= 0, twice, once))
    assert (once[negative] <= 0).any() and (once[~negative] > 0).all()


def test_joints_are_commanded_no_faster_than_3_rad_per_second(env: Any) -> None:
    joints = START_HAND - 0.5
    held = env.controls(np.ones(24), joints)
    assert np.abs(held - joints).max() == pytest.approx(0.3)
    near = env.commanded(np.ones(24)) - 0.01
    np.testing.assert_allclose(env.controls(np.ones(24), near), near + 0.01)


@pytest.mark.parametrize(("direction", "sign"), [("ccw", 1.0), ("cw", -1.0)])
def test_targets_circle_in_the_direction_asked_for(direction: str, sign: float) -> None:
    env: Any = make("baoding", "state", direction=direction, start_noise=0.0)
    env.reset(seed=0)
    places = np.stack([env.target(step) for step in range(1, 122)])  # (steps, ball, xy)
    centre = places[:60].mean(0)
    np.testing.assert_allclose(centre[0], centre[1], atol=1e-9)
    np.testing.assert_allclose(places[60:120], places[:60], atol=1e-9)
    np.testing.assert_allclose(places[30:90, 0], places[:60, 1], atol=1e-9)
    angles = np.unwrap(np.arctan2(*(places[:61, 0] - centre[0])[:, ::-1].T))
    assert angles[-1] - angles[0] == pytest.approx(sign * 2 * np.pi)
    np.testing.assert_array_equal(env.target(0), env.target(1))


def test_both_directions_are_drawn_and_told() -> None:
    env: Any = make("baoding", "state", direction="both")
    told = [env.reset(seed=seed)[0] for seed in range(12)]
    assert told[0].shape == (41,) and {float(obs[40]) for obs in told} == {1.0, -1.0}
    step = env.reset(seed=3)[0]
    state = env.get_state()
    for _ in range(4):
        step = env.step(np.zeros(24))[0]
    env.reset(seed=0, options={"sim_state": state})
    for _ in range(4):
        again = env.step(np.zeros(24))[0]
    assert np.array_equal(again, step)
    for options in ({"obs": "pixels"}, {"obs": "state", "layout": "recorded"}):
        with pytest.raises(EnvError, match="direction=both"):
            make("baoding", options.pop("obs"), direction="both", **options)


def test_reward_drop_and_measures(env: Any) -> None:
    env.reset(seed=0)
    state = np.concatenate([START_QPOS, np.zeros(36)])
    env.set_state(state)
    obs, reward, terminated, _, info = env.step(np.zeros(24))
    targets, balls = obs[36:].reshape(2, 2), obs[[24, 25, 30, 31]].reshape(2, 2)
    distances = np.linalg.norm(balls - targets, axis=1)
    assert not terminated and reward == pytest.approx(-5 * distances.sum(), abs=1e-5)
    assert info["measures"]["error"] == pytest.approx(100 * distances.mean(), abs=1e-4)
    fallen = state.copy()
    fallen[24:27] = 0.3, 0.3, 0.07
    env.set_state(fallen)
    obs, reward, terminated, _, info = env.step(np.zeros(24))
    distances = np.linalg.norm(obs[[24, 25, 30, 31]].reshape(2, 2) - obs[36:].reshape(2, 2), axis=1)
    assert terminated and reward == pytest.approx(-5 * distances.sum() - 510, abs=1e-4)
    assert info["measures"]["kept"] == 1.0 and not info["success"] and info["measures"]["return"] == reward
    bent = state.copy()
    bent[1], bent[26], bent[33] = 0.5, 0.6, 0.7  # the balls are in the air, away from the hand
    env.set_state(bent)
    obs, reward, terminated, _, _ = env.step(np.ones(24))
    distances = np.linalg.norm(obs[[24, 25, 30, 31]].reshape(2, 2) - obs[36:].reshape(2, 2), axis=1)
    assert obs[1] > 0.15 and not terminated and reward == pytest.approx(-5 * distances.sum() - 10, abs=1e-4)


def carried(env: Any, wrong: frozenset[int], limit: int) -> dict[str, Any]:
    """Put both balls on their targets before every step but those in `wrong`; return the last info."""
    env.reset(seed=0)
    info: dict[str, Any] = {}
    for step in range(1, limit + 1):
        env.data.qpos[:24], env.data.qvel[:] = START_HAND, 0.0
        places = env.target(step) + (0.05 if step in wrong else 0.0)
        for at, place in zip((24, 31), places, strict=True):
            env.data.qpos[at : at + 3] = *place, 1.0  # a metre up: it falls freely, and straight, by 5 cm
        *_, terminated, truncated, info = env.step(np.zeros(24))
        assert not terminated and truncated == (step == limit)
        assert info["success"] <= truncated, "nobody knows before the last step"
    return info


def test_success_is_nine_tenths_of_the_steps_from_the_tenth_on(env: Any) -> None:
    good = carried(env, frozenset(range(1, 10)), 75)
    assert good["success"] and good["score"] == 1.0 and good["tasks_done"].tolist() == [1.0]
    assert good["measures"]["kept"] == 75.0
    apart = [START_BALLS[0, :2] - START_BALLS[1, :2], *(np.subtract(*env.target(step)) for step in range(1, 76))]
    angles = np.unwrap([np.arctan2(y, x) for x, y in apart])
    assert good["measures"]["turns"] == pytest.approx((angles[-1] - angles[0]) / (2 * np.pi), abs=0.01)
    assert 1.0 < good["measures"]["turns"] < 74 / 60, "the balls begin ahead of their targets"
    enough = carried(env, frozenset(range(20, 26)), 75)
    assert enough["success"] and enough["score"] == pytest.approx(60 / 66)
    less = carried(env, frozenset(range(20, 27)), 75)
    assert not less["success"] and less["score"] == pytest.approx(59 / 66)


def test_a_seed_decides_the_start_and_no_noise_is_the_key_pose() -> None:
    noisy: Any = make("baoding", "state")
    starts = [noisy.reset(seed=seed)[0] for seed in (4, 4, 5)]
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])
    assert 0 < np.abs(starts[0][:24] - START_HAND).max() <= 0.02 + 1e-6
    assert 0 < np.abs(starts[0][24:27] - START_BALLS[0]).max() <= 0.002 + 1e-6


def test_restored_states_continue_exactly(env: Any) -> None:
    other: Any = make("baoding", "state")
    env.reset(seed=0)
    moves = np.random.default_rng(0).uniform(-0.2, 0.2, (16, 24))
    for action in moves[:8]:
        last = env.step(action)[0]
    state = env.get_state()
    obs, info = other.reset(seed=9, options={"sim_state": state})
    assert np.array_equal(obs, last) and np.array_equal(other.get_state(), state)
    for action in moves[8:]:
        expected, found = env.step(action), other.step(action)
        assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]
        assert found[4]["measures"] == expected[4]["measures"]
    assert np.array_equal(other.get_state(), env.get_state())


def test_positions_and_clock_give_the_targets_of_that_time(env: Any) -> None:
    env.reset(seed=0)
    joints = np.concatenate([START_QPOS, np.zeros(36)])
    for steps in (0, 1, 20):
        obs, _ = env.reset(seed=0, options={"sim_state": np.append(joints, steps)})
        np.testing.assert_allclose(obs[36:], env.target(steps).ravel(), atol=1e-6)
    assert env.reset(seed=0, options={"sim_state": np.append(joints, 74)})[0] is not None
    assert env.step(np.zeros(24))[3], "the clock goes on from there"


def test_pictures_are_restored_seeded_and_fast(env: Any) -> None:
    needs_pictures()
    pixels: Any = make("baoding", "pixels")
    first, _ = pixels.reset(seed=1)
    assert pixels.observation_space.contains(first)
    for _ in range(3):
        image = pixels.step(np.full(24, 0.3))[0]
    state = pixels.get_state()
    assert np.array_equal(pixels.reset(seed=2, options={"sim_state": state})[0], image)
    assert np.array_equal(pixels.reset(seed=1)[0], first)
    env.reset(seed=1, options={"sim_state": state})
    assert np.array_equal(env.get_state()[:75], state[:75]), "drawing does not touch the physics"
    large = pixels.render(128).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(large - first).mean() < 5
    yellow = (first[..., 0].astype(int) - first[..., 2] > 90).sum()
    assert yellow > 100, "ball 1 fills more than a hundred pixels"
    pixels.close()


def test_worker_processes_give_the_same_states() -> None:
    with VectorEnv("baoding", "state", 1) as vector:
        remote = [vector.reset([11])[0][0]] + [vector.step(np.zeros((1, 24)))[0][0] for _ in range(3)]
    local: Any = make("baoding", "state")
    assert np.array_equal(remote, [local.reset(seed=11)[0]] + [local.step(np.zeros(24))[0] for _ in range(3)])


def test_the_light_model_has_the_same_joints_and_few_triangles() -> None:
    model, light = build_model(), light_model()
    assert (model.nq, model.nv, model.nu, model.ntendon) == (38, 36, 24, 0)
    assert [light.body(i).name for i in range(light.nbody)] == [model.body(i).name for i in range(model.nbody)]
    np.testing.assert_array_equal(light.jnt_qposadr, model.jnt_qposadr)
    assert light.nsite == model.nsite and light.npair == 0
    assert light.mesh_facenum.sum() < 20_000 < model.mesh_facenum.sum()
    assert model.body_mass[model.body("ball1").id] == 0.043 and model.geom("ball1").size[0] == BALL_RADIUS


def test_a_sphere_of_facets_is_closed_and_round() -> None:
    vertices, faces = sphere_mesh(12, 8)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1.0)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), a + b + c) > 0).all(), "every face looks outwards"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"direction": "cww"}, "unknown direction 'cww'; did you mean 'cw'"),
        ({"actions": "record"}, "did you mean 'recorded'"),
        ({"layout": "propper"}, "did you mean 'proper'"),
        ({"limit": 10}, "limit must be a number of steps above 10"),
        ({"start_noise": -0.1}, "start_noise must lie in 0..0.1"),
        ({"tremble": 2.0}, "tremble must be a probability"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvError, match="baoding") as caught:
        make("baoding", "state", **options)
    assert expected in str(caught.value)
    assert set(options) <= set(task_options("baoding"))


def test_bad_actions_and_states_are_refused(env: Any) -> None:
    env.reset(seed=0)
    for bad in (np.zeros(23), np.full(24, np.nan)):
        with pytest.raises(EnvError, match=r"finite array of shape \(24,\)"):
            env.step(bad)
    with pytest.raises(EnvError, match="simulator state"):
        env.set_state(np.zeros(60))


def test_other_suites_do_not_import_it() -> None:
    code = "import sys; from envs.make import make; make('line', 'state'); print('envs.baoding' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
