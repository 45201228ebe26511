"""``python -m agent.deploy policy=POLICY episodes=3``: an exported policy in real time, without torch.

On a robot ``Deployed`` is all that is needed. With nothing but onnxruntime and numpy this file works alone, too: every
exported policy has a copy beside it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

GRAPH, CARD, FORMAT = "policy.onnx", "policy.json", 1
SLACK = 0.1  # of the range of an action: further outside it is of other units, or in another order
ROUNDING = 1e-6
DEPLOY_SEEDS = 7 << 28  # above those of training, evaluation and recording
USAGE = "python -m agent.deploy policy=POLICY [task=the policy's] [recordings=PATH] [episodes=3] [seed=0] [pace=true]"


class DeployError(Exception):
    """A policy that cannot be run, or an observation that it cannot act on; one line."""


class Deployed:
    """A policy that ``agent.export`` wrote. ``reset`` begins an episode, ``act`` is one step of it.

    Attributes:
        card: what ``policy.json`` says: "obs" (key, shape, dtype), "action" (size), "dt" (seconds between two actions),
            and "robot" where the demonstrations told of one, or task=gym: its units, the names of its numbers, its
            camera.
    """

    def __init__(self, graph: bytes, card: Mapping[str, Any]) -> None:
        """Raises DeployError: onnxruntime is not installed, or the graph is not readable."""
        try:
            import onnxruntime
        except ImportError as error:
            raise DeployError("onnxruntime is missing: pip install onnxruntime numpy") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a batch of one: more threads only wait for each other
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own classes are no public names
            raise DeployError(f"{GRAPH} is not readable: {' '.join(str(error).split())[:200]}") from error
        self.card = card
        self._shape = tuple(card["obs"]["shape"])
        self._takes = {each.name: each for each in self._session.get_inputs()}
        self._gives = [each.name for each in self._session.get_outputs()]
        self.reset()

    @classmethod
    def load(cls, folder: str | Path) -> Deployed:
        """Read a folder. Raises DeployError when it holds no policy that this version can run."""
        folder = Path(folder)
        if not (folder / CARD).is_file():
            raise DeployError(f"{folder}: no {CARD}: not a policy that agent.export wrote")
        try:
            card, graph = json.loads((folder / CARD).read_bytes()), (folder / GRAPH).read_bytes()
        except (OSError, ValueError) as error:
            raise DeployError(f"{folder}: not readable ({error})") from error
        if not isinstance(card, dict) or not {"format", "task", "options", "obs", "action", "dt"} <= card.keys():
            raise DeployError(f"{folder / CARD}: not the card of a policy that agent.export wrote")
        if card["format"] != FORMAT:
            raise DeployError(f"{folder / CARD}: format {card['format']!r}, this version reads {FORMAT}")
        if card.get("sha256") not in (None, hashlib.sha256(graph).hexdigest()):
            raise DeployError(f"{folder / GRAPH}: is not the policy that {CARD} is about; export it again")
        return cls(graph, card)

    def reset(self) -> None:
        """Forget the last episode."""
        self._action = np.zeros((1, self.card["action"]["size"]), np.float32)
        self._first = True
        self._memory = {
            name: np.zeros(each.shape, np.uint8 if "uint8" in each.type else np.float32)
            for name, each in self._takes.items()
            if name.startswith("memory_")
        }

    def act(self, obs: np.ndarray, did: np.ndarray | None = None) -> np.ndarray:
        """The observation of now, as the card's "obs" says -> the action until the next one, (A,) float32 in [-1, 1].

        did: (A,) in [-1, 1], what was really done since the last observation, where that was not the action given here
        (a limit, a person who stepped in): a policy of pictures infers from it what it sees next.

        Raises DeployError for another shape or type, for numbers that are none, and for a `did` outside of [-1, 1]: the
        memory stays as it was.
        """
        wanted = self.card["obs"]["dtype"]
        obs = np.asarray(obs)
        if obs.shape != self._shape:
            raise DeployError(f"an observation of shape {obs.shape}: expected {self._shape}")
        if wanted == "uint8" and obs.dtype != np.uint8:
            raise DeployError(f"a picture of {obs.dtype}: expected uint8 from 0 to 255")
        if wanted != "uint8" and not np.isfinite(obs).all():
            raise DeployError("an observation with numbers that are not finite")
        before = self._action if did is None else np.asarray(did, np.float32)[None]
        if before.shape != self._action.shape or not np.isfinite(before).all():
            raise DeployError(f"what was done, of shape {before.shape[1:]}: expected {self._action.shape[1:]}, finite")
        if np.abs(before).max() > 1 + ROUNDING:
            raise DeployError("what was done is outside of [-1, 1]: from_robot makes it of the robot's own units")
        given = {
            "observation": obs[None].astype(wanted),
            "action": np.clip(before, -1, 1),
            "is_first": np.array([self._first]),
            **self._memory,
        }
        found = self._session.run(None, {name: given[name] for name in self._takes})
        by_name = dict(zip(self._gives, found, strict=True))
        action = by_name["next_action"]
        if not np.isfinite(action).all():
            raise DeployError("the policy gives numbers that are not finite")
        self._action, self._first = action, False
        self._memory = {name: by_name[f"next_{name}"] for name in self._memory}
        return action[0].copy()

    def to_robot(self, action: np.ndarray) -> np.ndarray:
        """An action (A,) in [-1, 1], as ``act`` gives it -> (A,) float64 in the robot's own units, in the order of
        ``card["robot"]["action"]["names"]``, never outside its "recorded" where it tells that (-1 and 1 lie a little
        beyond), nor its "low" and "high".

        Raises DeployError: nobody told units, or it is no finite action of that size.
        """
        units, share = self._in_units(action)
        low, high = (np.asarray(units[side], np.float64) for side in ("low", "high"))
        kept = units.get("recorded", units)
        return np.clip(low + (np.clip(share, -1, 1) + 1) / 2 * (high - low), kept["low"], kept["high"])

    def from_robot(self, command: np.ndarray) -> np.ndarray:
        """What the robot did (A,), in the units and the order of ``to_robot``, which this is the inverse of -> (A,)
        float32 in [-1, 1], for ``act``; 0 where "low" and "high" are equal. A little outside of them counts as their
        end.

        Raises DeployError: as ``to_robot``; or a number is outside by more than SLACK of the range.
        """
        units, values = self._in_units(command)
        low, high = (np.asarray(units[side], np.float64) for side in ("low", "high"))
        span = high - low
        share = np.divide(values - low, span, out=np.full_like(values, 0.5), where=span > 0)
        far = np.flatnonzero((share < -SLACK) | (share > 1 + SLACK))
        if far.size:
            n = far[0]
            raise DeployError(
                f"{units['names'][n]}: {values[n]:.6g} is far outside of {low[n]:.6g} to {high[n]:.6g}: other units?"
            )
        return (2 * np.clip(share, 0, 1) - 1).astype(np.float32)

    def _in_units(self, action: np.ndarray) -> tuple[Mapping[str, Any], np.ndarray]:
        """The card's units, and an action (A,) as float64. Raises DeployError where there are no units, or for another
        shape, and for numbers that are none.
        """
        units = self.card.get("robot", {}).get("action")
        if units is None:
            raise DeployError(
                "neither demonstrations nor simulator told units of the robot: its actions are in [-1, 1]"
            )
        values = np.asarray(action, np.float64)
        if values.shape != (len(units["low"]),) or not np.isfinite(values).all():
            raise DeployError(f"an action of shape {values.shape}: expected {(len(units['low']),)}, finite")
        return units, values


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    policy      the folder that agent.export wrote
    task        another one with the same observations and actions
    recordings  what to play where there is no simulator
    episodes    how many
    seed        of the first one
    pace        wait for the clock, as a robot does; false: as fast as it goes
    """

    policy: Path
    task: str | None = None
    recordings: Path | None = None
    episodes: int = 3
    seed: int = 0
    pace: bool = True


@dataclass(frozen=True)
class Episode:
    """How an episode went. seconds: (n,) that the policy thought in each step. late: steps whose action came after its
    time.
    """

    seed: int
    score: float
    success: bool
    seconds: np.ndarray
    late: int


def play(policy: Deployed, env: Any, seed: int, *, pace: bool) -> Episode:
    """One episode in an environment, an action every ``card["dt"]`` seconds."""
    dt = float(policy.card["dt"])
    obs, info = env.reset(seed=seed)
    policy.reset()
    seconds: list[float] = []
    late, over, due = 0, False, time.monotonic()
    did: np.ndarray | None = None
    while not over:
        begun = time.monotonic()
        action = policy.act(obs, did)
        seconds.append(time.monotonic() - begun)
        obs, _, terminated, truncated, info = env.step(action)
        did = info.get("did")
        over, due = bool(terminated or truncated), due + dt
        left = due - time.monotonic()
        late += left < 0
        if pace and left > 0:
            time.sleep(left)
        elif left < 0:
            due = time.monotonic()  # what is lost stays lost: no burst of actions to catch up
    return Episode(seed, float(info["score"]), bool(info["success"]), np.array(seconds), late)


def deploy(options: Options, stream: TextIO | None = None) -> list[Episode]:
    """Play the episodes and tell how they went. Raises DeployError, EnvError, UsageError."""
    from demos import cli
    from demos.recorded_env import other_robot
    from envs.make import make

    stream = stream or sys.stdout
    if options.episodes < 1 or options.seed < 0:
        raise cli.UsageError("episodes must be at least 1, seed at least 0")
    policy = Deployed.load(options.policy)
    card, pictures = policy.card, policy.card["obs"]["key"] == "image"
    task, more = options.task or card["task"], dict(card["options"])
    if not card.get("simulated", True) and task == card["task"]:
        if options.recordings is None:
            raise DeployError(f"task={task} has no simulator: recordings=PATH plays recorded observations at its pace")
        differs = other_robot(options.recordings, card.get("robot", {}), card["obs"]["key"])
        if differs is not None:
            raise DeployError(f"recordings={options.recordings}: are not of the policy's robot: {differs}")
        more = {"recordings": str(options.recordings)}
        print("recordings: also those that the policy has learned from; agent.evaluate plays the others", file=stream)
    elif options.recordings is not None:
        raise DeployError(f"recordings={options.recordings}: task={task} has a simulator to play in")
    style = card.get("render", "fast")  # the pictures that it has learned from
    env = make(task, "pixels" if pictures else "state", render=style, **(more if task == card["task"] else {}))
    assert env.observation_space.shape is not None and env.action_space.shape is not None
    here = list(env.observation_space.shape), env.action_space.shape[0]
    if here != (card["obs"]["shape"], card["action"]["size"]):
        env.close()
        raise DeployError(f"task={task}: observations {here[0]} and {here[1]} numbers an action, the policy's differ")
    found, played = [], options.recordings is None
    for number in range(options.episodes):
        one = play(policy, env, DEPLOY_SEEDS + options.seed + number, pace=options.pace)
        found.append(one)
        success = f"{'success' if one.success else 'no success'}, " if played else ""
        print(
            f"episode {number + 1}/{options.episodes}: score {one.score:.4g}, {success}{len(one.seconds)} steps, "
            f"{one.late} late",
            file=stream,
            flush=True,
        )
    env.close()
    thought = 1e3 * np.concatenate([one.seconds for one in found])
    successes = f"{sum(one.success for one in found)} of {len(found)} episodes succeed, " if played else ""
    print(
        f"{successes}mean score "
        f"{np.mean([one.score for one in found]):.4g}; the policy takes {np.median(thought):.2f} ms a step (99 %: "
        f"{np.percentile(thought, 99):.2f}) of {1e3 * card['dt']:.0f}, {sum(one.late for one in found)} of "
        f"{len(thought)} steps late",
        file=stream,
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    try:
        from demos import cli
    except ImportError:
        print("deploy: the command plays in the project's simulators; without the project import Deployed from here")
        return 1
    errors = DeployError, OSError
    usage = cli.explained(USAGE, Options)
    return cli.run(deploy, Options, argv, usage, program="agent.deploy", errors=errors, interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())
