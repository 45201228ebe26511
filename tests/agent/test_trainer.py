"""The loop: an interrupted run is the uninterrupted one, rewards and looking change nothing, counters count."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint, monitor, video
from agent.agent import Agent
from agent.batch import to_device
from agent.build import ConfigError
from agent.collect import run_episodes
from agent.data import Replay
from agent.sampler import scheduled
from agent.trainer import Trainer
from demos import dataset
from demos.errors import DemoError
from envs import vector
from envs.episode import to_pairs
from envs.toy import CountEnv, count_expert, count_from_image
from envs.vector import VectorEnv
from models.mlp_ensemble import MLPEnsemble
from tests.agent.runs import (
    LocalVector,
    assert_same,
    differences,
    lines,
    local,
    moments,
    poison,
    replaced,
    start,
    state,
    trained,
)

PRETRAINING, UPDATES = 8, 20  # of a run with runs.TINY


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run without interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(run)
    counters = state(run)["counters"]
    assert (counters["env_steps"], counters["updates"]) == (120, UPDATES)
    yield run


def at_call(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, act: Callable[[], Any]) -> None:
    """Let the `call`-th call of a method (from 1) begin with `act`."""
    real, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return real(*args, **options)

    patch.setattr(owner, name, wrapped)


# ---------------------------------------------------------------------- resuming


def test_a_run_in_two_parts_is_the_run_in_one(run_dir: Path, whole: Path) -> None:
    start(run_dir, "steps=30")
    assert differences(trained(run_dir), trained(whole))
    start(run_dir)
    assert_same(run_dir, whole)
    extra = [m for m in moments(run_dir) if m not in moments(whole)]
    assert [(step, kind) for step, _, kind in extra] == [(30, "diag")], "the evaluation that ended the first part"


def test_what_a_run_says_of_itself_is_written_whole(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = replaced(monkeypatch)
    start(run_dir, "algo=bc", "obs=state", "data.length=2", "steps=2")
    assert {"config.yaml", "versions.json"} <= names


def test_weights_of_another_run_keep_the_statistics_that_they_are_used_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bc = ("algo=bc", "obs=state", "data.batch=4", "data.length=2", "eval.every=4", "ema=0.9")

    def world(name: str, *arguments: str) -> dict[str, torch.Tensor]:
        start(tmp_path / name, *bc, *arguments)
        return state(tmp_path / name)["modules"]["world"]

    source, own = world("source", "n_demos=2", "steps=4"), world("own", "n_demos=3", "steps=4")
    assert differences(source, own), "other demonstrations have others"
    assert not differences(world("next", "n_demos=3", "steps=4", f"init={tmp_path / 'source'}"), source)
    world("parts", "n_demos=3", "steps=2", f"init={tmp_path / 'source'}")
    world("parts", "n_demos=3", "steps=4")  # it stays what it began as, and averages on
    assert_same(tmp_path / "parts", tmp_path / "next")
    world("raw", "n_demos=2", "steps=4", "world_model.normalise=false")
    assert not differences(world("first", "n_demos=3", "steps=4", f"init={tmp_path / 'raw'}"), own), "where it has none"
    start(tmp_path / "no", *bc, "world_model.normalise=false", f"init={tmp_path / 'source'}", expect=1)
    assert "source normalises states, this run does not" in capsys.readouterr().err


def test_what_acts_sees_states_at_the_scale_that_is_learned_on_from_the_first_episode_on(run_dir: Path) -> None:
    """The averaged copy has no update to copy statistics from before episodes that only seed."""
    small = (
        "algo=hype",
        "obs=state",
        "data.batch=4",
        "data.length=2",
        "data.seed_steps=30",
        "steps=30",
        "eval.every=30",
    )
    start(run_dir, "algo=hype", *small)
    modules = state(run_dir)["modules"]
    assert state(run_dir)["counters"]["updates"] == 0
    for name in ("mean", "std"):
        assert torch.equal(modules["slow"][f"world.{name}"], modules["world"][name])
    assert modules["world"]["mean"].any()


def test_a_reference_policy_is_the_clone_of_a_run_that_had_none(tmp_path: Path) -> None:
    """Else leaving weights that were never trained would cost."""
    small = ("obs=state", "data.batch=4", "data.length=2", "data.seed_steps=30", "steps=30", "eval.every=30")
    start(tmp_path / "source", "algo=hype", *small)
    start(tmp_path / "run", "algo=hyper_bc", f"init={tmp_path / 'source'}", "data.stages=[]", *small)
    policy = state(tmp_path / "run")["modules"]["policy"]
    actor = {key.removeprefix("actor."): value for key, value in policy.items() if key.startswith("actor.")}
    assert actor and all(torch.equal(policy[f"reference.{key}"], value) for key, value in actor.items())


def test_settings_and_imagined_transitions_are_not_weights(tmp_path: Path) -> None:
    """``init=RUN`` brings what was learned; what the command says and what another model imagined stay apart."""
    small = ("obs=state", "data.batch=4", "data.length=2", "data.seed_steps=30", "steps=60", "eval.every=60")
    hyper = ("algo=hyper", "penalty=ens_std_mean", "penalty.alpha=1", "penalty.target=0.1", *small)
    start(tmp_path / "source", *hyper, "policy.temperature=0.2", "data.memory=500")
    new = (*small, f"init={tmp_path / 'source'}", "steps=0")
    start(tmp_path / "run", *hyper, *new, "policy.temperature=5.0", "penalty.alpha=3", "data.memory=900")
    source, modules = state(tmp_path / "source")["modules"], state(tmp_path / "run")["modules"]
    assert source["memory"]["_ends"][0] > 0 and modules["memory"]["_ends"].tolist() == [0, 0]
    assert modules["policy"]["fixed_temperature"].item() == 5.0
    assert modules["coefficient"]["log_alpha"].exp().item() == pytest.approx(3.0)
    learned = source["policy"].keys() - {"fixed_temperature"}
    assert learned and all(torch.equal(modules["policy"][key], source["policy"][key]) for key in learned)


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, ConfigError, DemoError, OSError])
def test_a_defect_in_the_middle_of_training_is_seen_and_bad_input_told_in_one_line(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    def breaks() -> None:
        raise DemoError("x", "y", "odd") if error is DemoError else error("odd")

    at_call(monkeypatch, Agent, "update", 2, breaks)
    bc = ("algo=bc", "obs=state", "data.batch=4", "data.length=2", "steps=4")
    if error in (ValueError, ZeroDivisionError):
        with pytest.raises(RuntimeError, match="a defect .*log.txt") as caught:
            start(run_dir, *bc)
        assert type(caught.value.__cause__) is error
        assert f"{error.__name__}: odd" in (kept := (run_dir / "log.txt").read_text()) and "in breaks" in kept
        assert "Traceback" not in capsys.readouterr().out, "it is raised, and not printed twice"
    else:
        start(run_dir, *bc, expect=1)
        assert capsys.readouterr().err.endswith("odd\n") and "Traceback" not in (run_dir / "log.txt").read_text()
    start(run_dir, *bc)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Agent, "update", 2),  # pre-training
        (Agent, "update", 6),  # the second stage
        (Agent, "update", PRETRAINING + 5),  # between the updates that one episode pays for
        (Agent, "update", UPDATES - 1),  # when all steps are taken and one of their updates is left
        (Agent, "update", UPDATES),  # the last
        (LocalVector, "step", 10),  # the first evaluation
        (LocalVector, "step", 2 * 30 + 45),  # collecting the second episode
        (LocalVector, "step", 2 * 30 + 2 * 30 + 15),  # the second evaluation
    ],
)
def test_a_run_stopped_by_ctrl_c_continues_as_if_it_had_not_been(
    run_dir: Path, whole: Path, owner: Any, name: str, call: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, call, lambda: signal.raise_signal(signal.SIGINT))
        start(run_dir, expect=130)
    assert "stopped and saved" in (run_dir / "log.txt").read_text()
    if owner is Agent:
        assert state(run_dir)["counters"]["updates"] == call
    start(run_dir)
    assert_same(run_dir, whole)
    assert moments(run_dir) == moments(whole)


def test_a_job_that_is_ended_saves_although_its_environments_die_with_it(run_dir: Path, whole: Path) -> None:
    def end() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise vector.EnvError("environment worker 0 died")

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, LocalVector, "step", 2 * 30 + 45, end)
        start(run_dir, expect=130)
    start(run_dir)
    assert_same(run_dir, whole)


def test_saving_after_every_update_changes_nothing(run_dir: Path, whole: Path) -> None:
    start(run_dir, "save_seconds=0")
    assert_same(run_dir, whole)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Replay, "commit", 3),  # the checkpoint is written, the replay does not know it yet
        (Replay, "commit", 16),
        (checkpoint, "save", 4),  # a line of metrics is written, its checkpoint is not; still at environment step 0
        (checkpoint, "save", PRETRAINING + 5),
    ],
)
def test_a_run_that_dies_continues_from_its_last_save(
    run_dir: Path, whole: Path, owner: Any, name: str, call: int
) -> None:
    class Died(BaseException):
        """Ends the process, as far as the run can tell."""

    def die() -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, call, die)
        with pytest.raises(Died):
            start(run_dir, "save_seconds=0")
    start(run_dir)
    assert_same(run_dir, whole)
    assert moments(run_dir) == moments(whole), "lines written after the checkpoint were made again, and are there once"


def test_resuming_is_exact_where_old_episodes_are_evicted(run_dir: Path, tmp_path: Path) -> None:
    options = ("data.capacity=170", "save_seconds=0")  # 93 rows of demonstrations and two episodes
    start(run_dir, *options)
    start(tmp_path / "parts", *options, "steps=60")
    start(tmp_path / "parts", *options)
    kept = trained(run_dir)["replay"]["episodes"]
    assert [entry[0] for entry in kept] == [0, 1, 2, 5, 6]
    assert_same(run_dir, tmp_path / "parts")


def test_a_fit_that_is_stopped_is_made_again_by_the_resumed_run(run_dir: Path, tmp_path: Path) -> None:
    """The third update of the second fit of a state model; its steps are no updates of the run."""
    options = ("algo=hyper", "obs=state", "data.length=2", "data.fit_every=10", "world_model.max_epochs=5",
               "world_model.max_updates=5", "data.updates_per_step=0.2", "steps=90")  # fmt: skip
    start(run_dir, *options)
    fits: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, MLPEnsemble, "fit", 2, lambda: fits.append(1))
        real = MLPEnsemble.loss

        def loss(self: MLPEnsemble, *args: Any) -> Any:
            if fits:
                fits.append(1)
                if len(fits) == 4:
                    signal.raise_signal(signal.SIGINT)
            return real(self, *args)

        patch.setattr(MLPEnsemble, "loss", loss)
        start(tmp_path / "parts", *options, expect=130)
    assert len(fits) == 4, "stopped before the next update of the fit"
    start(tmp_path / "parts", *options)
    assert_same(run_dir, tmp_path / "parts")


def test_offline_runs_resume_exactly_too(run_dir: Path, tmp_path: Path) -> None:
    options = ("algo=bc_rssm", "eval.every=4")
    start(run_dir, *options, "steps=9")
    other = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, Agent, "update", 3, lambda: signal.raise_signal(signal.SIGINT))
        start(other, *options, "steps=6", expect=130)
    start(other, *options, "steps=6")
    start(other, *options, "steps=9")
    assert_same(run_dir, other)
    counters = state(run_dir)["counters"]
    assert counters["updates"] == 9 and not counters.get("env_steps")


def test_the_time_limit_ends_pretraining_and_a_longer_one_goes_on(run_dir: Path, whole: Path) -> None:
    start(run_dir, "minutes=0")
    assert state(run_dir)["counters"].get("updates", 0) == 0
    start(run_dir)
    assert_same(run_dir, whole)


def test_the_weights_of_the_best_evaluation_are_kept(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of equals; a resumed run goes on from the best so far."""
    told = iter([1.0, 3.0, 3.0, 2.0, 2.5])
    kinds = {f"eval/score_{kind}" for kind in ("mode", "sampled")}
    monkeypatch.setattr(monitor, "evaluate", lambda _: dict.fromkeys(kinds, next(told)))

    def best() -> tuple[int, dict[str, Any]]:
        found = checkpoint.load(run_dir / "best")
        assert found is not None
        return found["step"], found["modules"]

    start(run_dir, "steps=90", "eval.every=30", "eval.at_start=true")  # evaluated at 0, 30, 60, 90
    step, modules = best()
    assert step == 60 and set(modules) == {"world", "reward", "policy", "slow"}
    assert len(list((run_dir / "best").glob("step-*"))) == 1
    assert differences(modules["policy"], state(run_dir)["modules"]["policy"])
    start(run_dir, "steps=120", "eval.every=30")
    assert best()[0] == 60


def test_pre_training_alone_is_evaluated_and_a_longer_run_goes_on_from_it(run_dir: Path, whole: Path) -> None:
    start(run_dir, "steps=0")
    (seen,) = (line for line in lines(run_dir) if "eval/score_mode" in line)
    assert seen["step"] == 0 and (run_dir / "best").exists()
    start(run_dir)
    assert_same(run_dir, whole)


def test_updates_left_are_those_that_are_made(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told before every update falls by one with it, stages among them, and ends at one."""
    told: list[tuple[float, float]] = []
    update = Trainer._update
    monkeypatch.setattr(
        Trainer,
        "_update",
        lambda self, *a: told.append((self.counters["updates"], self._updates_left())) or update(self, *a),
    )
    start(run_dir)
    assert len(told) == UPDATES and [left for _, left in told] == [UPDATES - done for done, _ in told]


def test_a_finished_run_is_left_alone(run_dir: Path, whole: Path) -> None:
    start(run_dir)
    before = moments(run_dir)
    start(run_dir)
    assert_same(run_dir, whole)
    assert moments(run_dir) == before


# ---------------------------------------------------------------------- what must not change training


@pytest.mark.parametrize(("options", "by"), [((), "episode"), (("algo=mm", "obs=state", "data.length=2"), "row")])
def test_transitions_are_equally_likely_and_chunks_by_episode(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], by: str
) -> None:
    """By episode, an off-policy learner of states would see little but its first, short episodes."""
    real, seen = Replay.sample, set()

    def noting(self: Replay, *args: Any, **how: Any) -> Any:
        seen.add(how.get("by"))  # none: who merely looks
        return real(self, *args, **how)

    monkeypatch.setattr(Replay, "sample", noting)
    start(run_dir, *options, "data.seed_steps=30", "eval.every=1000")
    assert seen - {None} == {by}


def test_looking_does_not_change_the_training(
    run_dir: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(run_dir, "eval.every=40", "eval.episodes=3", "eval.videos=true")
    assert_same(run_dir, whole, without=("next_eval", "evaluated"))

    def nothing(trainer: Trainer) -> dict[str, float]:
        return {"eval/score_mode": 0.0, "eval/score_sampled": 0.0}

    monkeypatch.setattr(monitor, "evaluate", nothing)
    start(tmp_path / "blind")
    assert_same(tmp_path / "blind", whole)


@pytest.mark.parametrize("algo", ["cmil", "vmail", "bc_rssm", "bc_cnn"])
def test_rewards_cannot_reach_a_learner(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    """Algorithms 5.1.3: poisoned rewards of environments and demonstrations, the same parameters."""
    options = (f"algo={algo}", "steps=60") if algo in ("cmil", "vmail") else (f"algo={algo}", "steps=4")
    start(run_dir, *options)
    assert all(np.isnan(episode.reward).all() for episode in dataset.load(dataset.shipped("line"), limit=3))
    poison(monkeypatch)
    start(tmp_path / "poisoned", *options)
    assert_same(run_dir, tmp_path / "poisoned")
    for module in state(run_dir)["modules"].values():
        assert all(bool(torch.isfinite(value).all()) for value in module.values())


# ---------------------------------------------------------------------- counters


def test_counters_count_training_steps_and_only_those(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithms 1.3, 5.1.6: seed steps apart, demonstrations and evaluation never."""
    taken = {True: 0, False: 0}
    watching = False
    evaluate, step = monitor.evaluate, LocalVector.step

    def watch(trainer: Trainer) -> Any:
        nonlocal watching
        watching = True
        found = evaluate(trainer)
        watching = False
        return found

    def count(self: LocalVector, actions: np.ndarray, which: Any = None) -> Any:
        taken[watching] += 1  # of every environment: one collects, the second idles
        return step(self, actions, which)

    monkeypatch.setattr(monitor, "evaluate", watch)
    monkeypatch.setattr(LocalVector, "step", count)
    start(run_dir, "data.seed_steps=40", "eval.every=30", "eval.episodes=3")
    counters = state(run_dir)["counters"]
    assert taken[False] == counters["env_steps"] == 120
    assert taken[True] > 120
    assert counters["env_steps/seed"] == 60, "whole episodes, so the second passes the 40 steps"
    assert counters["env_steps/policy"] == 60
    assert counters["updates"] == PRETRAINING + 6, "steps of the seed episodes pay for no updates"
    last = [line for line in lines(run_dir) if "env_steps/seed" in line][-1]
    assert (last["env_steps/seed"], last["env_steps/policy"], last["env_steps/reward"]) == (60, 60, 0)


def test_training_and_monitoring_use_other_seeds(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    reset = LocalVector.reset

    def note(self: LocalVector, seeds: Any) -> Any:
        seen.extend(seeds)
        return reset(self, seeds)

    monkeypatch.setattr(LocalVector, "reset", note)
    start(run_dir, "eval.episodes=3")
    watched = {seed for seed in seen if seed >= monitor.EVAL_SEEDS}
    assert watched == {monitor.EVAL_SEEDS + 1_000_000 + i for i in range(3)}
    assert len(set(seen) - watched) == 4, "every training episode has its own seed"


def test_a_schedule_is_a_number_or_linear_between_its_knots() -> None:
    assert scheduled(None, 5) is None and scheduled(0.3, 1e9) == 0.3 and scheduled(0, 7) == 0
    knots = [[100, 0.5], [200, 0.1], [1000, 0.0]]
    found = [scheduled(knots, at) for at in (0, 100, 150, 200, 600, 1000, 10**9)]
    assert found == pytest.approx([0.5, 0.5, 0.3, 0.1, 0.05, 0.0, 0.0])


# ---------------------------------------------------------------------- alignment


class CountingPolicy:
    """Acts as CountEnv's expert does, from the picture that it is shown; stands in for an agent."""

    def __init__(self) -> None:
        self.world = self

    def initial(self, n: int) -> list[np.ndarray]:
        """The carry: the actions chosen so far."""
        return []

    def act(self, obs: np.ndarray, action: np.ndarray, first: np.ndarray, carry: list[np.ndarray], **_: Any) -> Any:
        """The expert's next action (n, 1); checks that the action which led here is handed back."""
        assert first.all() == (not carry)
        np.testing.assert_array_equal(action, carry[-1] if carry else np.zeros_like(action))
        chosen = np.stack([count_expert(np.array([count_from_image(image)])) for image in obs])
        return chosen, [*carry, chosen]


def test_every_pair_joins_an_action_with_the_observation_it_was_taken_in(tmp_path: Path) -> None:
    """Algorithms 5.1.1: collect -> replay -> chunk -> to_pairs."""
    replay = Replay(tmp_path, obs_shape=(64, 64, 3), obs_dtype=np.uint8, action_size=1, capacity=200, budget_gb=1.0)
    with VectorEnv("count", "pixels", 2, processes=False) as envs:
        traces = run_episodes(CountingPolicy(), envs, [1, 2, 3], mode=True)  # type: ignore[arg-type]
    assert [t.seed for t in traces] == [1, 2, 3] and all(t.steps == CountEnv.horizon for t in traces)
    assert all(t.success and t.score == 1.0 and not t.terminal for t in traces)
    for trace in traces:
        replay.add_episode(**trace.arrays())
    rows = replay.sample(16, 30, np.random.default_rng(0))  # longer than an episode, so that chunks are continued
    chunk = to_device(rows, 0, torch.device("cpu"))
    count = torch.tensor([[float(count_from_image(image)) for image in images] for images in rows.obs])[..., None]
    pairs = to_pairs(count, chunk.action, chunk.is_terminal, axis=1)
    inside = ~chunk.is_first[:, 1:]
    assert 0 < int((~inside).sum()) < inside.numel() / 5
    assert torch.allclose(pairs.action[inside], (pairs.state[inside] + 1) / 20)
    assert torch.equal(pairs.next_state[inside], pairs.state[inside] + 1)
    assert not pairs.done.any(), "a time-out is not a termination"
    shifted = chunk.action[:, :-1]
    assert not torch.isclose(shifted[inside], (pairs.state[inside] + 1) / 20).any(), "a row late must not pass"


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize("where", ["world.safetensors", "latest.json"])
def test_a_full_disk_while_saving_loses_nothing(
    run_dir: Path, whole: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    write, saves = checkpoint._write, 0

    def full(path: Path, data: bytes) -> None:
        nonlocal saves
        if where in path.name:
            saves += 1
            if saves == 4:
                path.write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        start(run_dir, "save_seconds=0", expect=1)
    told = capsys.readouterr().err.strip()
    assert "\n" not in told and told.startswith("agent.train: disk full while saving a checkpoint")
    assert "is intact" in told
    assert state(run_dir)["counters"]["updates"] in (3, 4)
    start(run_dir)
    assert_same(run_dir, whole)


def test_a_full_disk_costs_events_and_videos_but_not_the_training(
    run_dir: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)  # in a thread of its own
    monkeypatch.setattr(video, "write_gif", full)
    start(run_dir, "eval.videos=true")
    told = capsys.readouterr().err.strip().splitlines()
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for line in told) == ["tensorboard", "videos"]
    assert all("No space left on device" in line for line in told)
    assert_same(run_dir, whole)
    assert moments(run_dir) == moments(whole)


def test_a_second_training_of_the_same_run_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, Agent, "update", 3, lambda: start(run_dir, expect=1))
        start(run_dir, "steps=30")
    told = capsys.readouterr().err.strip()
    held = f"agent.train: {run_dir}: process {os.getpid()} is training in this run folder"
    assert told == f"{held}; stop it first, or name another run"
    start(run_dir, "steps=30")  # the lock is gone with its holder


def test_a_dead_environment_is_an_error_with_its_cause(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def die() -> None:
        raise vector.EnvError("environment worker 0 (line, pixels) died; was it killed?")

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, LocalVector, "step", 70, die)
        start(run_dir, expect=1)
    assert "worker 0 (line, pixels) died" in capsys.readouterr().err


# ---------------------------------------------------------------------- devices


@pytest.mark.gpu
@pytest.mark.parametrize("algo", ["cmil", "vmail", "bc_rssm", "bc_cnn", "cmil_official"])
def test_a_cycle_on_cuda(run_dir: Path, algo: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    first, second, third = (3, 6, 9) if algo.startswith("bc") else (30, 60, 90)
    small = "data.stages=[{name: a, updates: 2, parts: [world, reward, policy]}]"
    options = (f"algo={algo}", "data.bf16=true", "eval.videos=true", *([small] if "official" in algo else []))
    start(run_dir, *options, "device=cuda", f"steps={first}")
    start(run_dir, *options, "device=cuda", f"steps={second}")
    for module in state(run_dir)["modules"].values():
        assert all(bool(torch.isfinite(value).all()) for value in module.values())
    start(run_dir, *options, "device=cpu", f"steps={third}")  # a checkpoint goes where it is needed


def test_a_stage_has_its_own_learning_rates(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "{name: pretrain, updates: 3, parts: [world, clone], lr: {world: 1e-5, actor: 2e-5, another: 1.0}}"
    seen: list[tuple[float, ...]] = []
    update = Agent.update

    def watched(self: Agent, *args: Any, **options: Any) -> Any:
        groups = [self.optimisers[name].adam.param_groups[0] for name in ("world", "actor", "critics")]
        assert all(g["lr"] * g["weight_decay"] == pytest.approx(1e-6) for g in groups), "the decay keeps its size"
        seen.append(tuple(g["lr"] for g in groups))
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        return update(self, *args, **options)

    monkeypatch.setattr(Agent, "update", watched)
    start(run_dir, f"data.stages=[{stage}]", "optim.world.lr=3e-4", "optim.actor.lr=4e-4", "steps=30", expect=130)
    start(run_dir, f"data.stages=[{stage}]", "optim.world.lr=3e-4", "optim.actor.lr=4e-4", "steps=30")
    assert seen == [(1e-5, 2e-5, 3e-4)] * 3 + [(3e-4, 4e-4, 3e-4)] * 3
