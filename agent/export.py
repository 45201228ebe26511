"""``python -m agent.export run=DIR out=POLICY``: a trained policy as a file that acts without torch.

    POLICY/policy.onnx    one step: observation, last action and memory -> action and memory
    POLICY/policy.json    card: what goes in and out, the pace, where it comes from, how well it was checked
    POLICY/deploy.py      what runs it, for a machine without this project
    POLICY/README.md      the same for people
    POLICY/frames.py      only with demonstrations from a camera: its frames as the policy sees them

Memory (the recurrent latent of a world model of pixels) goes in and out explicitly, so that the
graph itself has no state.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent import deploy
from agent.deploy import CARD, FORMAT, GRAPH, Deployed
from agent.evaluate import REPORT
from agent.finished import command, open_env, open_run, rebuild, robot_of
from demos.robot import UNSEEN
from envs import frames
from envs.base import pace

if TYPE_CHECKING:
    from torch import Tensor

    from agent.agent import Agent

USAGE = "python -m agent.export run=DIR out=POLICY [weights=last|best|chosen]"
CHECKED = 20  # steps in which the file must act like the run
TOLERANCE = 1e-3  # of actions in [-1, 1]
OPSET = 20


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    out         the folder to write; an earlier policy in it is replaced
    weights     last, best or chosen, as `agent.evaluate`'s
    """

    run: Path
    out: Path
    weights: str = "last"


def main(argv: Sequence[str] | None = None) -> int:
    """Export one run. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    return command("agent.export", USAGE, export, Options, argv)


def export(options: Options) -> Path:
    """Write the folder; returns it.

    Raises:
        ConfigError, CheckpointError: no run, no checkpoint, the extra ``export`` is not installed, or the file does not
        act like the run. EnvError: the task cannot run here. OSError, DemoError: the disk refuses.
    """
    from agent.build import ConfigError, pick_device
    from agent.given import simulated
    from demos.dataset import write_atomic

    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"out={options.out}: is a file")
    config, state = open_run(options.run, options.weights)
    task, obs = config["task"], config["obs"]
    _refuse_foreign(options.out)
    robot = robot_of(options.run) or {}
    # best and chosen weights come without the replay, whose shapes are those of the task
    layout = (state if "replay" in state else open_run(options.run)[1])["replay"]["layout"]
    shape, actions = tuple(layout["obs_shape"]), int(layout["action_size"])
    about = _of_the_task(config) if simulated(config) else _of_recordings(config, robot)
    robot = about.pop("robot", {}) | robot
    agent = rebuild(options.run, config, state, actions, shape, pick_device("cpu"))
    card: dict[str, Any] = {
        "format": FORMAT,
        "task": task["name"],
        **about,
        "obs": {"key": obs["key"], "shape": list(shape), "dtype": "uint8" if obs["key"] == "image" else "float32"},
        "action": {"size": actions, "low": -1.0, "high": 1.0},
        "evaluation": _evaluation(options, int(state["step"])),
        "provenance": {
            "run": options.run.resolve().name,
            "weights": options.weights,
            "method": config["algo"]["name"],
            "size": config["size"]["name"],
            "seed": config["seed"],
            "step": int(state["step"]),
            "updates": int(state["counters"]["updates"]),
            "demonstrations": Path(str(config["demos"])).name,
        },
    }
    card |= {"robot": {key: value for key, value in robot.items() if key != UNSEEN[obs["key"]]}} if robot else {}
    graph = convert(agent, card)
    card["check"] = {"steps": CHECKED, "largest_difference": difference(agent, graph, card), "tolerance": TOLERANCE}
    if not card["check"]["largest_difference"] <= TOLERANCE:
        raise ConfigError(f"{options.out}: the file acts unlike the run (by {card['check']['largest_difference']:.2g})")
    card["sha256"] = hashlib.sha256(graph).hexdigest()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (CARD, "frames.py"):  # of another policy, which this one replaces: first its card
        (options.out / name).unlink(missing_ok=True)
    write_atomic(options.out / GRAPH, graph)
    write_atomic(options.out / "deploy.py", Path(deploy.__file__).read_bytes())
    if "camera" in card.get("robot", {}):
        write_atomic(options.out / "frames.py", Path(frames.__file__).read_bytes())
    write_atomic(options.out / "README.md", _readme(card, len(graph)).encode())
    write_atomic(options.out / CARD, json.dumps(card, indent=1).encode())  # last: a folder with a card is complete
    print(f"{options.out}: {len(graph) / 1e6:.1f} MB; acts like the run to {card['check']['largest_difference']:.1e}")
    return options.out


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError where files of the user's own would be replaced: a policy's folder has a card, or, when it was
    left half-written, a graph.
    """
    from agent.build import ConfigError

    names = [name for name in ("README.md", "deploy.py", "frames.py") if (out / name).exists()]
    if names and not (out / CARD).exists() and not (out / GRAPH).exists():
        raise ConfigError(f"out={out}: holds {names[0]}, which this command has not written: name another folder")


def _of_the_task(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the simulator says of itself: its options, its robot, its actions and their pace."""
    options = dict(config["task"]["options"])
    env = open_env(config)
    description = " ".join((inspect.getdoc(type(env.unwrapped)) or "").split("\n\n")[0].split())
    dt, limits = env.unwrapped.dt, env.unwrapped.limits
    env.close()
    about = {"simulated": True, "options": options, "render": config.get("render", "fast")}
    about |= {"description": description, "dt": dt}
    if limits is None:
        return about
    low, high = (side.tolist() for side in limits)
    names = [f"action[{number}]" for number in range(len(low))]
    return about | {"robot": {"action": {"names": names, "low": low, "high": high}}}


def _of_recordings(config: Mapping[str, Any], robot: Mapping[str, Any]) -> dict[str, Any]:
    """The same without a simulator, and without the recordings, which may be elsewhere by now."""
    dt, told = pace(config["task"]["options"]["dt"], robot.get("dt"))
    if not told:
        print(
            f"nobody tells the seconds between two actions: {dt:g} is assumed; the training command with "
            "task.options.dt=SECONDS says it, then export again",
            file=sys.stderr,
        )
    about = "A robot of one's own, learned from recordings, without a simulator."
    return {"simulated": False, "options": {}, "description": about, "dt": dt, "dt_is_assumed": not told}


def _evaluation(options: Options, step: int) -> dict[str, Any] | None:
    """What `agent.evaluate` found of the most likely actions of these very weights, if it has looked."""
    try:
        report = json.loads((options.run / REPORT[options.weights]).read_text())
        mode = report["results"]["mode"]
    except (OSError, ValueError, KeyError):
        return None
    if report["checkpoint"]["step"] != step:
        return None
    found = {"episodes": report["episodes"], "success": mode["success"], "score": mode["score"]}
    return found | {"measures": mode["measures"], "note": report.get("note", "")}


def memory(carry: Any) -> dict[str, Tensor]:
    """The tensors of a world model's carry by name, without those that hold nothing."""
    from models.latent import Latent

    each = {f.name: getattr(carry, f.name) for f in fields(carry)} if isinstance(carry, Latent) else {"frames": carry}
    return {name: value for name, value in each.items() if value.numel()}


def convert(agent: Agent, card: dict[str, Any]) -> bytes:
    """One acting step (``Agent.act`` with mode=True) of one robot as an ONNX graph.

    Inputs: observation (1, ...), action (1, A) that led to it, is_first (1,) bool, memory_NAME (1, ...) each. Outputs:
    next_action (1, A) in [-1, 1], next_memory_NAME. Raises ConfigError when the extra ``export`` is not installed.
    """
    import torch
    from torch import nn

    from agent.build import ConfigError
    from models.latent import Latent

    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install onnx onnxscript onnxruntime") from error

    world, actor = agent.acting
    start: Any = world.initial(1)
    parts = memory(start)

    class Step(nn.Module):
        """What the graph computes."""

        def __init__(self) -> None:
            super().__init__()
            self.world, self.actor = world, actor

        def forward(self, observation: Tensor, action: Tensor, is_first: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
            now = dict(zip(parts, held, strict=True))
            carry = replace(start, **now) if isinstance(start, Latent) else now.get("frames", start)
            z, carry = self.world.filter(observation, action, is_first, carry, sample=False)
            chosen = self.actor(z.feat).mode().clamp(-1, 1)
            return (chosen, *(value for name, value in memory(carry).items() if name in parts))

    given = (
        torch.zeros(1, *card["obs"]["shape"], dtype=getattr(torch, card["obs"]["dtype"])),
        torch.zeros(1, card["action"]["size"]),
        torch.ones(1, dtype=torch.bool),
        *parts.values(),
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Step(),
            given,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["observation", "action", "is_first", *(f"memory_{name}" for name in parts)],
            output_names=["next_action", *(f"next_memory_{name}" for name in parts)],
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def difference(agent: Agent, graph: bytes, card: dict[str, Any]) -> float:
    """The largest difference of actions between the graph and the run, each with its own memory, over a few steps of
    random observations (within two standard deviations of what the run has normalised states by).
    """
    rng = np.random.default_rng(0)
    deployed = Deployed(graph, card)
    carry, action, worst = agent.world.initial(1), np.zeros((1, card["action"]["size"]), np.float32), 0.0
    mean, std = (np.asarray(getattr(agent.acting[0], n, x), np.float32) for n, x in (("mean", 0.0), ("std", 1.0)))
    for step in range(CHECKED):
        if card["obs"]["dtype"] == "uint8":
            obs = rng.integers(0, 256, card["obs"]["shape"], np.uint8)
        else:
            size = card["obs"]["shape"][0]  # of a state with a flag for the absorbing one, the others
            obs = mean.ravel()[:size] + std.ravel()[:size] * rng.uniform(-2, 2, size).astype(np.float32)
            obs = obs.astype(np.float32)
        action, carry = agent.act(obs[None], action, np.array([step == 0]), carry, mode=True)
        worst = max(worst, float(np.abs(deployed.act(obs) - action[0]).max()))
    return worst


def _told(evaluation: dict[str, Any] | None, simulated: bool) -> str:
    if evaluation is None:
        return "How well it does was not measured: `python -m agent.evaluate`, then export it again."
    if not simulated:
        error = "{:.3f} [{:.3f}, {:.3f}]".format(*evaluation["measures"]["error"])
        return f"Mean distance of its actions from recorded ones: {error}, of [-1, 1] ({evaluation['note']})."
    rate, score = ("{:.2f} [{:.2f}, {:.2f}]".format(*evaluation[key]) for key in ("success", "score"))
    return f"In {evaluation['episodes']} simulated episodes: success {rate}, score {score} (mean, 95 % interval)."


def _of_the_robot(robot: dict[str, Any]) -> str:
    """The section on the robot's units, names and camera; nothing where nobody tells of them."""
    if not robot:
        return ""
    source = "What the demonstrations, or the simulator, tell of it"
    lines = ["", "## The robot", "", f"{source}; `policy.json` has the same under `robot`."]
    if (camera := robot.get("camera")) is not None:
        height, width, _ = camera["frame"]
        made = "frames.py (numpy alone) makes the observation: `from frames import small; policy.act(small(frame))`"
        lines += ["", f"Camera `{camera['key']}`, RGB frames {width} wide and {height} high; {made}.", ""]
        lines += [f"What it does: {camera['how']}."]
    if (state := robot.get("state")) is not None:
        lines += ["", f"Numbers of the state, in this order: {', '.join(state['names'])}."]
    if (action := robot.get("action")) is not None:
        lines += ["", "`policy.to_robot(action)` turns an action into the robot's units, from least to greatest;"]
        lines += ["`policy.from_robot(done)` makes what the robot did the `did` of `policy.act(observation, did)`.", ""]
        lines += ["| number | -1 is | 1 is | least | greatest |", "|---|---|---|---|---|"]
        kept = action.get("recorded", action)  # without it the units' own ends
        each = zip(action["names"], action["low"], action["high"], kept["low"], kept["high"], strict=True)
        lines += [f"| {name} | {' | '.join(f'{number:.6g}' for number in four)} |" for name, *four in each]
    return "\n".join([*lines, ""])


def _readme(card: dict[str, Any], size: int) -> str:
    obs, made, options, check = (card[key] for key in ("obs", "provenance", "options", "check"))
    shape = " x ".join(map(str, obs["shape"]))
    every = f"every {card['dt']:g} s{' (assumed: nobody told)' if card.get('dt_is_assumed') else ''}"
    return f"""# A policy for {card["task"]}

{card["description"]}

Made by Understudy; {size / 1e6:.1f} MB. It needs onnxruntime and numpy, and always takes its most likely action.
{_told(card["evaluation"], card["simulated"])}

```python
from deploy import Deployed  # deploy.py of this folder; with the project installed: agent.deploy

policy = Deployed.load("POLICY")  # this folder
policy.reset()                    # at the beginning of every episode
action = policy.act(observation)  # {every}: ({card["action"]["size"]},) float32 in [-1, 1]
```

`observation`: {shape} {obs["dtype"]} ({obs["key"]}), as the policy saw it in training: the same camera, size and
order of numbers. Options of the task: {json.dumps(options) if options else "none"}.
In {check["steps"]} steps its actions differed from the run's by at most {check["largest_difference"]:.1e}.

| where it comes from | |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in made.items())}
{_of_the_robot(card.get("robot", {}))}"""


if __name__ == "__main__":
    sys.exit(main())
