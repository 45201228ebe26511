"""Configurations: every preset composes, every key is read, and every mistake is named."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from agent import checkpoint, config, record, trainer
from agent.build import ConfigError, pick_device
from agent.checkpoint import CheckpointError
from agent.config import CONFIGS, dump_config, fingerprint, load_config, read_config
from demos.cli import parse
from tests.agent.recorded import comparisons, line, pictures
from tests.agent.runs import local, overrides, start


def at(node: Any, path: str) -> Any:
    """The value of a dotted key."""
    for part in path.split("."):
        node = node[part]
    return node


# ---------------------------------------------------------------------- presets

# algorithms 3.1, column "official code", and the code's side of the table of disagreements
OFFICIAL = {
    "world_model.latent": "gaussian",
    "world_model.stoch": 360,
    "world_model.deter": 400,
    "world_model.hidden": 400,
    "world_model.members": 10,
    "world_model.kl_balance": 0.8,
    "world_model.free_nats": 1.0,
    "world_model.decode_rows": 0,
    "world_model.shift": 0,
    "world_model.behaviour_scale": 0.0,
    "reward.layers": 2,
    "reward.map": "prob",  # C1
    "reward.noise": 2.5,  # C3
    "reward.noise_in_reward": True,  # C2
    "reward.gp": "none",
    "starts.kind": "replay",
    "starts.per_chunk": 0,
    "penalty.name": "ens_std_mean",  # C8
    "penalty.alpha": 10.0,
    "policy.kind": "backprop",
    "policy.hidden": 400,
    "policy.layers": 4,
    "policy.critic": "q",
    "policy.critics": 2,
    "policy.gamma": 0.99,
    "policy.lambda_": 0.95,
    "policy.horizon": 15,
    "policy.entropy": 1e-4,  # C20
    "policy.beta_bc": 10.0,
    "policy.rl_scale": 1.0,
    "policy.data_critic": True,  # C6
    "policy.target_every": 100,
    "policy.target_reduce": "random",  # C4
    "policy.critic_weight_shift": 1,  # C5
    "policy.min_std": 0.1,
    "policy.explore_noise": 0.0,
    "data.batch": 32,
    "data.length": 50,
    "data.joint_batch": False,
    "data.expert_fraction": None,
    "data.updates_per_step": 0.4,
    "data.seed_steps": 5000,
    "data.burn_in": 0,
    "data.from_start": 0.0,
    "data.sample_by": "episode",
    "ema": 0.0,
}


def test_the_official_preset_is_the_codes_column() -> None:
    found, _ = load_config(["algo=cmil_official", "size=base"])
    assert {key: at(found, key) for key in OFFICIAL} == OFFICIAL
    for name in ("world", "reward", "actor", "critics"):
        kind = {} if name == "world" else {"kind": "adam"}
        more: dict[str, Any] = {"world": {}, "reward": {"l2": 0.0}}.get(name, {"saw": 0})
        assert found["optim"][name] == {"lr": 3e-4, "clip": 100.0, "eps": 1e-5, "wd": 1e-6} | kind | more
    stages = [(s["updates"], sorted(s["parts"])) for s in found["data"]["stages"]]
    assert stages == [(1000, ["policy", "reward", "world"]), (100, ["clone", "world"])]


def test_the_official_preset_keeps_its_settings_at_every_size() -> None:
    by_size = ("world_model.", "reward.layers", "policy.hidden")  # only the networks may shrink
    found, _ = load_config(["algo=cmil_official", "size=small", "task=kitchen"])
    for key in OFFICIAL:
        if not key.startswith(by_size):
            assert at(found, key) == OFFICIAL[key], key


def test_the_papers_differ_where_they_should() -> None:
    paper, _ = load_config(["algo=cmil_paper", "size=base"])
    assert (paper["reward"]["map"], paper["reward"]["noise"]) == ("logit", 1.58)
    vmail, _ = load_config(["algo=vmail", "size=base"])
    assert (vmail["penalty"]["alpha"], vmail["world_model"]["members"], vmail["policy"]["critic"]) == (0.0, 1, "v")
    assert (vmail["policy"]["beta_bc"], vmail["reward"]["gp"], vmail["world_model"]["free_nats"]) == (0.0, "input", 3.0)
    assert {name: vmail["optim"][name]["lr"] for name in ("world", "reward", "actor", "critics")} == {
        "world": 3e-4,
        "reward": 8e-5,
        "actor": 8e-5,
        "critics": 8e-5,
    }
    assert all(group["clip"] == 100.0 for group in vmail["optim"].values())
    official, _ = load_config(["algo=vmail_official", "size=base"])
    assert official["reward"]["gp"] == "weight" and official["optim"]["world"]["lr"] == 6e-4
    world, data = official["world_model"], official["data"]
    assert (world["depth"], world["act"]) == (32, "relu")
    assert (world["stoch"], world["deter"], world["kl_balance"], world["free_nats"]) == (30, 200, 0.5, 3.0)
    assert world["kl_scale"] == 2.0, "a balance of a half halves both gradients of plain KL"
    assert (data["batch"], data["length"], data["updates_per_step"], data["seed_steps"]) == (128, 50, 0.2, 1000)
    assert (official["policy"]["horizon"], official["policy"]["explore_noise"], data["stages"]) == (15, 0.3, [])


class Noting(dict[str, Any]):
    """A configuration that remembers which of its keys were read."""

    def __init__(self, content: dict[str, Any], read: set[str], path: str = "") -> None:
        super().__init__({k: Noting(v, read, f"{path}{k}.") if isinstance(v, dict) else v for k, v in content.items()})
        self._read, self._path = read, path

    def __getitem__(self, key: str) -> Any:
        self._read.add(self._path + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(self._path + key)
        return super().get(key, default)

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


def leaves(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of all values that are not dicts."""
    for key in node:
        value = dict.__getitem__(node, key)
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


# one for every file of every part's folder
READERS = (
    *(("pixels", algo, ()) for algo in ("cmil", "vmail", "bc_rssm", "bc_cnn", "ml_irl")),
    ("pixels", "offline_ml_irl", (f"dataset={pictures()}",)),
    *(("state", algo, ()) for algo in ("hyper", "airl", "expert", "ml_irl", "f_irl", "iq_learn", "value_dice")),
    *(("state", algo, (f"dataset={line()}", "size.epoch=1")) for algo in ("offline_ml_irl", "mopo")),
    ("state", "clare", (f"dataset={line()}", "size.epoch=1", "data.reward_start=10", "penalty=ens_std_mean")),
    ("state", "hype", ("policy=td3_bc",)),
    ("state", "cmil_recurrent", ()),
    ("state", "aihf", (f"preferences={comparisons()}",)),
)


def test_every_key_is_read_by_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that nobody reads would swallow what a user sets.

    What other keys quote is read by them, `regime` is a name, `algo.obs` is checked with the command line, some keys
    are about environment steps or demonstrations only, and those of `data/_upkeep.yaml` are read where there is
    something to keep up.
    """
    steps_only = {
        f"data.{key}" for key in ("updates_per_step", "seed_steps", "stages", "expert_fraction", "act", "capacity")
    }
    texts = [path.read_text() for path in CONFIGS.rglob("*.yaml")]
    quoted = {name for text in texts for name in re.findall(r"\$\{([\w.]+)\}", text)}
    upkeep = {
        f"data.{key}" for key in re.findall(r"^(\w+):", (CONFIGS / "data/_upkeep.yaml").read_text(), re.MULTILINE)
    }
    local(monkeypatch)
    load = config.load_config
    monkeypatch.setattr(config, "dump_config", lambda *_: None)
    for module in (config, trainer):
        monkeypatch.setattr(module, "fingerprint", lambda _: {})
    unread: dict[str, set[str]] = {}
    kept_up: set[str] = set()
    for obs, algo, more in READERS:
        read: set[str] = set()
        monkeypatch.setattr(config, "load_config", lambda o, r=read: (Noting(load(o)[0], r), ""))
        offline = algo.startswith("bc") or bool(more and more[0].startswith("dataset"))
        length = ("steps=2",) if offline else ("steps=60", "data.updates_per_step=0.04", "data.seed_steps=0")
        small = ("world_model.max_updates=5",) if algo == "hyper" else ()
        given = (f"algo={algo}", f"obs={obs}", *more, *length, *small, "eval.videos=true")
        start(tmp_path / f"{obs}-{algo}", *given)
        known = set(leaves(load(overrides(tmp_path, *given))[0]))
        kept_up |= read & upkeep
        read |= {"data.regime", "algo.obs"} | quoted | upkeep | (steps_only if offline else set())
        read |= {"n_demos", "data.expert_fraction"} if algo in ("expert", "mopo") else set()
        # of the network that predicts the true reward where a model imagines
        read |= {"reward.hidden", "reward.layers", "reward.act"} if algo == "expert" else set()
        unread[f"{obs} {algo}"] = {key for key in known - read if not key.startswith(("size.", "optim."))}
    assert not set.union(*unread.values()), unread
    assert kept_up == upkeep, upkeep - kept_up


def test_every_size_has_the_same_keys_and_all_of_them_are_used() -> None:
    texts = {path: path.read_text() for path in CONFIGS.rglob("*.yaml")}
    used = {name for text in texts.values() for name in re.findall(r"\$\{size\.([\w.]+)\}", text)}
    used = {name for name in used if name.split(".")[0] not in used - {name}}  # a table as a whole, or entries of it
    for path in (CONFIGS / "size").glob("*.yaml"):
        entries = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(entries, dict)
        apart = {key for key, value in entries.items() if isinstance(value, dict) and key not in used}
        keys = (set(entries) - apart) | {f"{key}.{inner}" for key in apart for inner in entries[key]}
        assert keys - {"name"} == used, path.name


# ---------------------------------------------------------------------- command line


def test_auto_chooses_the_size_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given in ([], ["size=auto"]):
        found, note = load_config(given)
        assert found["size"]["name"] == "small"
        assert note == "size=auto: small, because there is no CUDA device in use"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found, note = load_config([])
    assert found["size"]["name"] == "base" and "because CUDA is in use" in note
    assert load_config(["device=cpu"])[0]["size"]["name"] == "small"
    assert load_config(["size=debug"])[1] == ""


def test_a_cuda_device_that_is_named_is_there_and_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and graphs belong to the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert pick_device("cuda:1") == torch.device("cuda:1") and current == [torch.device("cuda:1")]
    with pytest.raises(ConfigError, match="device: cuda:2: there are 2 CUDA devices, counted from 0"):
        pick_device("cuda:2")
    assert pick_device("cuda") == torch.device("cuda") and len(current) == 1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("stesp=5", "unknown key 'stesp'; did you mean 'steps'?"),
        ("optim.wrld.lr=1", "unknown key 'optim.wrld.lr'; did you mean 'optim.world.lr'?"),
        ("wold_model=rssm", "unknown key 'wold_model'; did you mean 'world_model'?"),
        ("data=hybird", "data=hybird: no such data; did you mean 'hybrid_state'? (known: demos_pixels,"),
        ("obs=pixel", "obs=pixel: no such obs; did you mean 'pixels'?"),
        ("size=debug,small", "size=debug,small: no such size"),
        ("steps=", "steps=: expected a number"),
        ("minutes=soon", "minutes=soon: expected a number"),
        ("data.envs=null", "data.envs=null: expected a number"),
        ("data.batch=4.5", "data.batch=4.5: expected a whole number"),
        ("quiet=perhaps", "quiet=perhaps: expected true or false"),
        ("world_model.latent=3", "world_model.latent=3: expected a word"),
        ("data.stages=3", "data.stages=3: expected a list"),
        ("eval=3", "eval=3: expected several keys"),
        ("steps=600,700", "'steps=600,700': one value is expected"),
        ("steps=[1", "'steps=[1' cannot be read"),
        ("+new=1", "'+new=1': arguments have the form key=value"),
        ("seed=-1", "seed=-1: expected at least 0"),
        ("data.length=1", "data.length=1: expected at least 2"),
        ("data.burn_in=40", "data.burn_in=40: leaves no pair of"),
        ("data.clone_own=-3", "data.clone_own=-3: expected at least 0"),
        ("data.from_start=3", "data.from_start=3: expected at most 1"),
        ("policy.lambda_=2", "policy.lambda_=2: expected at most 1"),
        ("clone_noise=-1", "clone_noise=-1: expected at least 0"),
        (
            "data.stages=[{name: a, updates: 2, parts: [wrold]}]",
            "a: 'wrold' is none of policy, reward, world, clone; did you mean 'world'?",
        ),
        ("official_counts=[demo]", "official_counts: 'demo' is none of demos, clone; did you mean 'demos'?"),
        ("data.stages=[{name: a, parts: [world]}]", "name, updates and parts are needed"),
        ("data.parts=[world,reward]", "data.parts: reward learns in the updates of policy"),
        ("data.stages=[{name: a, updates: 2, parts: [clone, reward]}]", "a: reward learns in the updates of policy"),
        ("data.stages=[{name: a, updates: 2, part: [world], parts: [world]}]", "name, updates and parts are needed"),
        ("data.stages=[{name: a, updates: soon, parts: [world]}]", "a: updates='soon' is no number of updates"),
    ],
)
def test_mistakes_are_named_in_one_line(argument: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["task=line", "size=debug", argument] if not argument.startswith("size") else [argument])
    text = str(caught.value)
    assert expected in text and "\n" not in text and "http" not in text


def test_paths_begin_at_home_where_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave ~ alone behind a key."""
    monkeypatch.setenv("HOME", "/somewhere")
    config, _ = load_config(["task=line", "size=debug", "run=~/runs/a", "demos=~/mine", "eval.episodes=3"])
    assert (config["run"], config["demos"]) == ("/somewhere/runs/a", "/somewhere/mine")
    assert parse(["run=~/a", "out=b~"], record.Options).run == Path("/somewhere/a")


@pytest.mark.parametrize(
    ("algo", "key"),
    [("cmil", "policy.target_every"), ("cmil", "policy.critics"), ("hype", "policy.polyak_every"),
     ("hype", "policy.hold"), ("hyper_antmaze", "policy.delay"), ("hyper", "world_model.max_epochs"),
     ("hyper", "world_model.patience")],
)  # fmt: skip
def test_what_is_counted_in_is_above_zero(algo: str, key: str) -> None:
    """0 would be divided by in the middle of a run."""
    with pytest.raises(ConfigError, match=rf"{key}=0: expected at least 1"):
        load_config(["task=line", "size=debug", "obs=state", f"algo={algo}", f"{key}=0"])


@pytest.mark.parametrize(("key", "value"), [("obs_std", "0"), ("margin", "-1"), ("std_floor", "0")])
def test_a_model_of_states_divides_by_nothing_and_cuts_nothing_away(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"world_model\.{key}={value}: expected at least"):
        load_config(["task=line", "size=debug", "obs=state", "algo=cmil_recurrent", f"world_model.{key}={value}"])


@pytest.mark.parametrize(
    "path", ["a=b,c", "runs/x(1)", "it's {here}", "50%", "a b", "[1", "back\\slash", "123", "null1"]
)
def test_paths_mean_themselves(path: str) -> None:
    found, _ = load_config(["size=debug", f"run={path}", f"demos={path}"])
    assert found["run"] == path and found["demos"] == path


def test_values_arrive_as_what_they_are() -> None:
    given = ["size=debug", "steps=1e5", "policy.gamma=0.9", "minutes=2.5", "data.expert_fraction=0.5", "run=null"]
    found, _ = load_config([*given, "task.options.subtasks=[kettle]", "task=kitchen", "quiet=true"])
    assert found["steps"] == 100_000 and isinstance(found["steps"], int)
    assert (found["policy"]["gamma"], found["minutes"], found["data"]["expert_fraction"]) == (0.9, 2.5, 0.5)
    assert found["task"]["options"]["subtasks"] == ["kettle"] and found["quiet"] is True and found["run"] is None


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    found, _ = load_config(["size=base", "algo=cmil_official", "optim.world.lr=1e-5"])
    dump_config(found, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == found
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    (tmp_path / "config.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not a readable run configuration"):
        read_config(tmp_path / "config.yaml")


def test_runs_from_before_pictures_could_be_drawn_otherwise_go_on() -> None:
    given = load_config(["task=line", "run=unused"])[0]
    assert "render" not in fingerprint(given) and fingerprint(given | {"render": "faithful"})["render"] == "faithful"


def test_a_run_is_identified_by_what_its_settings_are_and_not_by_what_the_tables_offer_others() -> None:
    given = load_config(["task=line", "run=unused"])[0]
    more: dict[str, Any] = copy.deepcopy(given)
    more["obs"]["another_method"] = {"lr": 1.0}
    more["size"]["another_number"] = 7
    assert fingerprint(more) == fingerprint(given)
    for override in ("size=debug", "obs=state", "obs.ema=0.5", "size.members=3"):
        assert fingerprint(load_config(["task=line", "run=unused", override])[0]) != fingerprint(given), override


def test_what_an_earlier_version_saved_beyond_what_counts_today_separates_no_run(tmp_path: Path) -> None:
    """Whole tables, where recordings lie, the pace: a run that has them in its checkpoint can still be opened."""
    config = load_config(["task=own", "demos=here", "algo=bc", "obs=state"])[0]
    now = fingerprint(config)
    earlier = now | {"size": config["size"], "obs": config["obs"], "task": config["task"]}
    assert fingerprint(now) == now == fingerprint(earlier) != earlier
    checkpoint.save(tmp_path, {"step": 1}, fingerprint=earlier)
    assert checkpoint.load(tmp_path, now, counts=fingerprint) is not None
    with pytest.raises(CheckpointError, match="recordings"):
        checkpoint.load(tmp_path, now)
    with pytest.raises(CheckpointError, match='size: saved "small", now "base"'):
        checkpoint.load(tmp_path, now | {"size": "base"}, counts=fingerprint)
