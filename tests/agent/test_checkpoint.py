"""Checkpoints: exact round trip, and a loadable checkpoint whatever happens during a save."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint
from agent.checkpoint import CheckpointError, load, rng_state, save, set_rng_state

FINGERPRINT = {"size": "small", "model": {"deter": 200, "members": [5, 5]}}


def state_at(step: int) -> dict[str, Any]:
    """A state in which every value tells the step."""
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(step)
    return {"step": step, "modules": {"net": net.state_dict()}, "optimisers": {}, "counters": {"episodes": step // 10}}


def names(folder: Path) -> list[str]:
    """Everything in the checkpoint folder."""
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    adam = torch.optim.AdamW(net.parameters(), lr=3e-4)
    net(torch.randn(8, 3)).sum().backward()
    adam.step()
    state = {
        "step": 1234,
        "modules": {"world": net.state_dict(), "tied": {"a": net[0].weight, "b": net[0].weight}},
        "optimisers": {"world": adam.state_dict()},
        "counters": {"env_steps": 2**40, "score": 0.1, "best": None, "done": False, "names": ["a", "b"], "none": {}},
        "arrays": {
            "mean": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
            "mask": np.array([True, False]),
            "empty": np.zeros((0, 4), np.float32),
            "scalar": np.float32(0.5),
            "count": torch.tensor(7),
            "many": [torch.ones(2, dtype=torch.bfloat16), np.int64(3)],
        },
        "rng": np.random.default_rng(5).bit_generator.state,
        "not_a_number": [float("inf"), float("nan")],
    }
    path = save(tmp_path / "checkpoint", state, fingerprint=FINGERPRINT)
    assert path.name == "step-000001234"
    back = load(tmp_path / "checkpoint", FINGERPRINT)
    assert back is not None
    assert back["step"] == 1234 and back["counters"] == state["counters"] and back["rng"] == state["rng"]
    assert back["not_a_number"][0] == float("inf") and np.isnan(back["not_a_number"][1])
    for key in ("mean", "mask", "empty"):
        np.testing.assert_array_equal(back["arrays"][key], state["arrays"][key], strict=True)
    assert back["arrays"]["scalar"] == 0.5 and back["arrays"]["many"][1] == 3
    assert back["arrays"]["count"].shape == () and back["arrays"]["count"] == 7
    assert back["arrays"]["many"][0].dtype == torch.bfloat16
    for name, saved in state["modules"].items():
        assert back["modules"][name].keys() == saved.keys()
        assert all(torch.equal(back["modules"][name][k], v) for k, v in saved.items())
    other = torch.optim.AdamW(net.parameters(), lr=1.0)
    other.load_state_dict(back["optimisers"]["world"])
    assert other.param_groups[0]["lr"] == 3e-4
    assert torch.equal(other.state[net[0].weight]["exp_avg"], adam.state[net[0].weight]["exp_avg"])


def test_saved_tensors_do_not_follow_training(tmp_path: Path) -> None:
    state = state_at(3)
    save(tmp_path, state, fingerprint={})
    state["modules"]["net"]["weight"] += 1
    back = load(tmp_path)
    assert back is not None and (back["modules"]["net"]["weight"] == 3).all()


def test_an_empty_or_missing_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert load(tmp_path / "nothing") is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, state_at(step), fingerprint={})
    assert names(tmp_path) == ["latest.json", "step-000000030", "step-000000040"]
    assert (load(tmp_path) or {})["step"] == 40
    save(tmp_path, state_at(50), fingerprint={}, keep=1)
    assert names(tmp_path) == ["latest.json", "step-000000050"]


def test_saving_twice_at_one_step_keeps_both(tmp_path: Path) -> None:
    """Pre-training makes many updates at environment step 0."""
    for episodes in (1, 2, 3, 4):
        save(tmp_path, state_at(0) | {"counters": episodes}, fingerprint={})
        assert (load(tmp_path) or {})["counters"] == episodes
    assert len(names(tmp_path)) == 3


# ---------------------------------------------------------------------- things that go wrong


def stages() -> list[str]:
    """The functions of a save after which the process may die."""
    return ["_write", "_sync_folder", "_write_atomic", "_clean", "_free_name", "_write_all"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("stage", stages())
@pytest.mark.parametrize("call", [1, 2, 3])
def test_dying_at_any_stage_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, before: bool, call: int
) -> None:
    for step in (10, 20):
        save(tmp_path, state_at(step), fingerprint={})
    real, calls = getattr(checkpoint, stage), 0

    def dies(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and before:
            raise KeyboardInterrupt  # not an Exception: nothing is cleaned up, as after a kill
        result = real(*args)
        if calls == call:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stage, dies)
        try:
            save(tmp_path, state_at(30), fingerprint={})
            died = False
        except KeyboardInterrupt:
            died = True
    assert died == (calls >= call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that latest.json names is ever damaged
        back = load(tmp_path)
    assert back is not None and back["step"] in (20, 30)
    assert (back["modules"]["net"]["weight"] == back["step"]).all()
    save(tmp_path, state_at(40), fingerprint={})
    assert (load(tmp_path) or {})["step"] == 40
    left = names(tmp_path)
    assert len(left) == 3 and not [name for name in left if name.startswith("tmp-")], "leftovers are removed"


KILLED = """
import sys
import torch
from agent.checkpoint import load, save
folder = sys.argv[1]
step = (load(folder) or {"step": 0})["step"]
print("ready", flush=True)
while True:
    step += 1
    save(folder, {"step": step, "modules": {"net": {"w": torch.full((20000,), float(step))}}}, fingerprint={"a": 1})
"""


def test_kill_minus_nine_during_saves(tmp_path: Path, root: Path) -> None:
    last = 0
    for attempt in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.2 + 0.037 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        back = load(tmp_path, {"a": 1})
        assert back is not None and back["step"] > last
        assert (back["modules"]["net"]["w"] == back["step"]).all()
        last = back["step"]


@pytest.mark.parametrize("at", ["tensors", "manifest.json", "latest.json"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    save(tmp_path, state_at(10), fingerprint={})
    real = checkpoint._write

    def full(path: Path, data: bytes) -> None:
        if at in path.name or (at == "tensors" and path.suffix == ".safetensors"):
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(
            CheckpointError, match="disk full while saving .*the previous checkpoint step-000000010 is intact"
        ):
            save(tmp_path, state_at(20), fingerprint={})
        assert not [name for name in names(tmp_path) if name.startswith("tmp-0")], (
            "the half-written one gives its space back"
        )
    assert (load(tmp_path) or {})["step"] == 10
    save(tmp_path, state_at(20), fingerprint={})
    assert (load(tmp_path) or {})["step"] == 20


def test_the_first_save_on_a_full_disk_says_that_there_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(CheckpointError, match="disk full.*no previous checkpoint"):
        save(tmp_path, state_at(20), fingerprint={})


@pytest.mark.parametrize("file", ["net.safetensors", "state.json", "manifest.json", "arrays.safetensors"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, file: str, damage: str) -> None:
    for step in (10, 20):
        save(tmp_path, state_at(step), fingerprint={})
    path = tmp_path / "step-000000020" / file
    data = bytearray(path.read_bytes())
    if damage == "changed":
        data[len(data) // 2] ^= 255
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "changed" else data[:-7])
    with pytest.warns(UserWarning, match="step-000000020 is damaged"):
        back = load(tmp_path, {})
    assert back is not None and back["step"] == 10


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, state_at(step), fingerprint={})
    (tmp_path / "step-000000020" / "net.safetensors").write_bytes(b"")
    save(tmp_path, state_at(30), fingerprint={})
    assert names(tmp_path) == ["latest.json", "step-000000010", "step-000000030"]


def test_none_readable_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    save(tmp_path, state_at(10), fingerprint={})
    (tmp_path / "step-000000010" / "state.json").unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match="no checkpoint .* can be read"),
    ):
        load(tmp_path)


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_without_latest_json_the_folder_itself_is_looked_at(tmp_path: Path, content: bytes | None) -> None:
    for episodes in range(12):
        save(tmp_path, state_at(0) | {"counters": episodes}, fingerprint={}, keep=20)
    os.remove(tmp_path / "latest.json")
    assert (load(tmp_path) or {})["counters"] == 11
    for step in (900, 1000):
        save(tmp_path, state_at(step), fingerprint={}, keep=4)
    latest = tmp_path / "latest.json"
    if content is None:
        latest.unlink()
        back = load(tmp_path)
    else:
        latest.write_bytes(content)
        with pytest.warns(UserWarning, match="latest.json is damaged"):
            back = load(tmp_path)
    assert back is not None and back["step"] == 1000


# ---------------------------------------------------------------------- refusals


def test_other_settings_are_refused_naming_every_key(tmp_path: Path) -> None:
    save(tmp_path, state_at(1), fingerprint=FINGERPRINT)
    assert load(tmp_path, {"size": "small", "model": {"members": (5, 5), "deter": 200.0}}) is not None
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, {"size": "base", "model": {"deter": 400, "members": [5, 5]}, "seed": 3})
    text = str(caught.value)
    assert 'size: saved "small", now "base"' in text and "model.deter: saved 200, now 400" in text
    assert "seed: saved nothing, now 3" in text and "members" not in text
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"step": -1}, "step"),
        ({"step": True}, "step"),
        ({"bad": {"path": object()}}, r"state\.bad\.path is a object"),
        ({"bad": {1: "a", "b": 2}}, r"state\.bad has the key 1"),
        ({"bad": {True: "a"}}, r"state\.bad has the key True"),
        ({"bad": np.array(["a"])}, r"state\.bad is an array of <U1"),
        ({"modules": {"net": {"w": 3.0}}}, r"modules\.net\.w is float, expected a tensor"),
        ({"modules": {"../net": {}}}, "cannot be a file name"),
        ({"optimisers": {"adam": {"state": object()}}}, r"state\.optimisers\.adam\.state is a object"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    save(tmp_path, state_at(1), fingerprint={})
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path, state_at(2) | extra, fingerprint={})
    assert names(tmp_path) == ["latest.json", "step-000000001"]
    assert (load(tmp_path) or {})["step"] == 1


def test_an_earlier_format_gives_its_weights_and_its_pickle_is_never_run(tmp_path: Path) -> None:
    """Even with a fitting checksum."""
    save(tmp_path, state_at(1), fingerprint=FINGERPRINT)
    folder, target = tmp_path / "step-000000001", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(target),))

    torch.save({"adam": Evil()}, folder / "optimisers.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "optimisers.pt").read_bytes()
    manifest["files"]["optimisers.pt"] = {"sha256": checkpoint.hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(CheckpointError, match="earlier version.*init=RUN.*cannot be continued"):
        load(tmp_path, FINGERPRINT)
    found = load(tmp_path, FINGERPRINT, weights_alone=True)
    assert found is not None and (found["modules"]["net"]["weight"] == 1).all()
    assert not target.exists()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(CheckpointError, match="format 3"):
        load(tmp_path, weights_alone=True)


# ---------------------------------------------------------------------- random states


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    def generators() -> dict[str, Any]:
        return {
            "replay": np.random.default_rng(1),
            "old": np.random.Generator(np.random.MT19937(2)),
            "torch": torch.Generator().manual_seed(3),
        }

    def draw(g: dict[str, Any]) -> list[float]:
        own = [float(g["replay"].normal()), float(g["old"].normal()), float(torch.randn((), generator=g["torch"]))]
        return [*own, float(torch.randn(()))]

    before = generators()
    draw(before)
    save(tmp_path, state_at(1) | {"rng": rng_state(before)}, fingerprint={})
    expected = [draw(before) for _ in range(3)]
    back, after = load(tmp_path), generators()
    assert back is not None
    set_rng_state(back["rng"], after)
    assert [draw(after) for _ in range(3)] == expected
    with pytest.raises(CheckpointError, match="'old', 'replay', 'torch'.*'replay'"):
        set_rng_state(back["rng"], {"replay": np.random.default_rng(0)})
