"""``python -m agent.train task=kitchen obs=pixels [KEY=VALUE ...]``: train, or continue, one run."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from agent.agent import Agent
    from agent.given import Given
    from agent.logger import Logger
    from agent.parallel import Team


def main(argv: Sequence[str] | None = None) -> int:
    """Train to the end. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted and
    saved. Raises RuntimeError for a defect in the middle of training.
    """
    # Heavy imports happen in functions: environment workers import this module and need none of them.
    from demos.cli import asks_for_help

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if asks_for_help(arguments):
            from agent.config import usage

            print(usage())
            return 0
        return _told_in_one_line(arguments)
    except KeyboardInterrupt:  # before the loop began or after it ended: nothing to save
        print("agent.train: interrupted", file=sys.stderr)
        return 130


def _told_in_one_line(arguments: list[str]) -> int:
    """``run``; 1 after one line for what is no defect."""
    told: tuple[type[Exception], ...] = (*_expected(), ValueError)  # of parts that refuse their options
    try:
        return run(arguments)
    except told as error:
        if "WORLD_SIZE" not in os.environ or os.environ.get("RANK") == "0":  # of torchrun's processes the first says it
            print(f"agent.train: {error}", file=sys.stderr)
        return 1


def _expected() -> tuple[type[Exception], ...]:
    """What one line is enough for, wherever it comes from."""
    from agent.build import ConfigError
    from agent.checkpoint import CheckpointError
    from agent.data import ReplayError
    from demos.errors import DemoError
    from envs.errors import EnvError

    return ConfigError, CheckpointError, ReplayError, DemoError, EnvError, OSError


@contextlib.contextmanager
def _traced(logger: Logger) -> Iterator[None]:
    """Let the traceback of any other error be seen, here and in RUN/log.txt: once training goes on, a ValueError is a
    defect and no bad option.
    """
    try:
        yield
    except _expected():
        raise
    except Exception as error:
        logger.note(traceback.format_exc(), shown=False)
        text = f"a defect (see above, and {logger.run / 'log.txt'}); the same command goes on from the last checkpoint"
        raise RuntimeError(text) from error


def run(overrides: list[str]) -> int:
    """Compose, build, train; raises the errors that ``main`` turns into one line."""
    import torch

    from agent.build import build_agent, pick_device
    from agent.config import load_config, read_config, set_threads
    from agent.given import gather
    from agent.parallel import Team

    config, note = load_config(overrides)
    task, obs = config["task"], config["obs"]
    name = f"{task['name']}-{obs['name']}-{config['algo']['name']}-{config['size']['name']}-seed{config['seed']}"
    folder = Path(config["run"] or Path("runs") / name)
    begun = folder / "config.yaml"
    resumed = (folder / "checkpoint").is_dir() and begun.is_file()
    if config["init"] is None and resumed:  # which stays what it began as
        config["init"] = read_config(begun).get("init")
    given = gather(config)
    set_threads(config["threads"])
    with Team.joined(config) as team:
        device = pick_device(config["device"]) if team is None else team.device
        torch.manual_seed(config["seed"])
        agent = build_agent(config, given.like.action_size, device, given.like.obs_shape)
        if (told := given.comparisons) is not None:
            agent.reward.take(told.obs, told.action, told.label, device)
        if team is not None:
            team.take(agent)
            if team.rank > 0:
                return team.serve()
        config |= given.checksums()
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return _train(config, note, folder, agent, given, team)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold FOLDER/lock, which the system releases however the process ends. ConfigError when another one holds it."""
    from agent.build import ConfigError

    try:
        import fcntl
    except ImportError:  # not a Unix system: nothing to guard with
        yield
        return
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = f"process {pid}" if (pid := file.read().strip()) else "another process"
            text = f"{folder}: {holder} is training in this run folder; stop it first, or name another run"
            raise ConfigError(text) from error
        except OSError:  # a network file system without locks
            pass
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _train(
    config: Mapping[str, Any], note: str, folder: Path, agent: Agent, given: Given, team: Team | None = None
) -> int:
    """Start or continue the run in ``folder``; returns the exit code."""
    from agent import checkpoint, plots
    from agent.build import ConfigError
    from agent.config import dump_config, fingerprint
    from agent.data import Replay
    from agent.finished import FOLDERS, ROBOT, open_envs
    from agent.given import TOLD
    from agent.logger import Logger
    from agent.trainer import Trainer
    from demos.dataset import write_atomic

    data = config["data"]
    state = checkpoint.load(folder / "checkpoint", fingerprint(config), counts=fingerprint)
    started = ""
    if state is None and config["init"]:
        started = load_weights(agent, Path(config["init"]))
        _check_robot(config, Path(config["init"]), given.robot)
    if state is None and (source := config["world_model"].get("path")):
        started = "; ".join(filter(None, (started, load_model(agent, Path(source), config))))
    like = given.like
    replay = Replay(
        folder / "replay",
        **like._asdict(),
        # nothing that is recorded may give way; and what plays no episodes needs no more room than it is given
        capacity=given.rows if _complete(data) else max(data["capacity"], given.rows),
        budget_gb=data["budget_gb"],
        truth=config["reward"]["kind"] in TOLD,
        termination=data["termination"],
    )
    dump_config(config, folder / "config.yaml")
    if given.robot is not None:  # also when resumed: the checksums of the configuration say that they are the same
        write_atomic(folder / ROBOT, json.dumps(given.robot, indent=1).encode())
    if state is None:
        write_atomic(folder / "versions.json", json.dumps(versions(agent.device), indent=1).encode())
    lines = {} if state is None else {"resume_step": int(state["step"]), "resume_lines": state["logger_lines"]}
    with (
        open_envs(config, data["envs"]) as envs,
        Logger(folder, total=config["steps"], quiet=config["quiet"], **lines) as logger,
    ):
        if envs.observation_space.shape != like.obs_shape or envs.action_space.shape != (like.action_size,):
            raise ConfigError(
                f"the demonstrations have observations {like.obs_shape} and {like.action_size} actions, the task "
                f"{envs.observation_space.shape} and {envs.action_space.shape[0]}: they are of another version of it"
            )
        trainer = Trainer(config, folder, agent, envs, replay, given.demos, logger, state, given.recorded, team)
        resumed, state = state is not None, None  # whose imagined transitions are held once
        begun = _resumed(trainer, resumed, given.more)
        shown = given.notes if not resumed and config["obs"]["name"] == "pixels" else []
        shared = "" if team is None else f"{team.size} processes share each update of {data['batch']} chunks"
        told = note, started, f"run: {folder}", replay.describe(), begun, shared, envs.note, envs.drawing(), *shown
        for text in filter(None, told):
            logger.note(text)

        def stop(*_: Any) -> None:
            trainer.stop = True
            # not through print, which the signal may have interrupted
            os.write(2, b"\nstopping: a checkpoint is saved as soon as the present update or step is done\n")

        previous = [signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)]
        try:
            with _traced(logger):
                trainer.train()
        finally:
            for s, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
                signal.signal(s, handler)
            replay.close()
        if trainer.stop:
            logger.note(f"stopped and saved at {_counts(trainer)}; the same command continues this run")
        else:
            which = " weights=chosen" if (folder / FOLDERS["chosen"]).is_dir() else ""
            logger.note(f"done at {_counts(trainer)}; next: python -m agent.evaluate run={folder}{which}")
    with _traced(logger):
        plots.curves(folder)
        plots.theorem2(folder)
    return 130 if trainer.stop else 0


def _complete(data: Mapping[str, Any]) -> bool:
    """Whether a run's replay never holds more rows than it is given at the start."""
    from agent.ending import UNCHANGED

    return data["episodes_per_cycle"] == 0 and data["termination"] in UNCHANGED


def _counts(trainer: Any) -> str:
    return f"{trainer.step} steps, {int(trainer.counters['updates'])} updates"


def _newest(modules: Any) -> dict[str, Any]:
    """The newest weights under the names that the averaged ones have."""
    world = {f"world.{key}": value for key, value in modules.get("world", {}).items()}
    policy = modules.get("policy", {})
    return world | {key: value for key, value in policy.items() if key.startswith("actor.")}


def load_weights(agent: Any, source: Path) -> str:
    """Take the weights of run ``source`` wherever name and shape agree (BC before CMIL, another reward on the same
    model).

    Returns a line for the log. Raises ConfigError when there is no checkpoint or nothing fits.
    """
    from agent import checkpoint
    from agent.build import ConfigError

    state = checkpoint.load(source / "checkpoint", weights_alone=True)
    if state is None:
        raise ConfigError(f"init: {source} holds no checkpoint")
    taken = total = 0
    for name in checkpoint.WEIGHTS:  # and not what another model imagined, of which another penalty was told
        module = getattr(agent, name)
        if module is None:
            continue
        # a run without averaged weights starts them from its newest ones
        own, given = module.state_dict(), state["modules"].get(name) or _newest(state["modules"])
        learned = own.keys() - set(getattr(module, "settings", ()))
        fits = {key: given[key] for key in own if key in learned & given.keys() and own[key].shape == given[key].shape}
        module.load_state_dict(own | fits)
        taken, total = taken + len(fits), total + len(learned)
    reference = getattr(agent.policy, "reference", None)
    if reference is not None and not any(key.startswith("reference.") for key in state["modules"].get("policy", {})):
        reference.load_state_dict(agent.policy.actor.state_dict())  # what was cloned: not the weights it began with
    if not taken:
        raise ConfigError(f"init: no tensor of {source} fits this configuration")
    if getattr(agent.world, "normalise", None) is False and agent.world.has_statistics:
        raise ConfigError(f"init: {source} normalises states, this run does not: world_model.normalise=true")
    return f"init: {taken} of {total} tensors from {source}"


def load_model(agent: Agent, source: Path, config: Mapping[str, Any]) -> str:
    """Take the fitted model of run ``source`` as it is (``world_model.path``): other learners on the same model, for
    which no time goes into a fit.

    Returns a line for the log. Raises ConfigError when there is none, or one of other shapes or of another task.
    """
    from agent import checkpoint
    from agent.build import ConfigError
    from agent.config import read_config

    state = checkpoint.load(source / "checkpoint", weights_alone=True)
    if state is None:
        raise ConfigError(f"world_model.path: {source} holds no checkpoint")
    tasks = [c["task"]["name"] for c in (read_config(source / "config.yaml"), config)]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"world_model.path: {source} is of task={tasks[0]}, this run of task={tasks[1]}")
    found = state["modules"]["world"]
    shapes = [{key: value.shape for key, value in tensors.items()} for tensors in (found, agent.world.state_dict())]
    differ = sorted({key for key, _ in shapes[0].items() ^ shapes[1].items()})
    if differ:
        raise ConfigError(f"world_model.path: the model of {source} has other tensors: {', '.join(differ[:3])}, ...")
    if bool((found["ensemble.delta_std"] == 1).all()) and config["world_model"]["normalise_fit"]:
        raise ConfigError(f"world_model.path: the model of {source} is not fitted yet")
    for world in agent.worlds:
        world.load_state_dict(found)
    return f"model of {source}, which is not fitted again"


def _check_robot(config: Mapping[str, Any], source: Path, told: Mapping[str, Any] | None) -> None:
    """Raise ConfigError where the demonstrations of run ``source`` tell of another robot than this run's do."""
    from agent.build import ConfigError
    from agent.config import read_config
    from agent.finished import robot_of
    from agent.given import simulated
    from demos.robot import differing

    both = not simulated(config) and not simulated(read_config(source / "config.yaml"))
    differs = differing(robot_of(source) or {}, told or {}, config["obs"]["key"], both=both)
    if differs is not None:
        raise ConfigError(f"init: {source} and this run are not of one robot: {differs}")


def _resumed(trainer: Any, resumed: bool, more: bool) -> str:
    given = f"{len(trainer.demos)} demonstrations" + (" (there are more: n_demos=null takes all)" if more else "")
    if trainer.demos and (asked := trainer.config["n_demos"]) is not None and len(trainer.demos) < asked:
        given += f" (all there are; n_demos={asked})"
    if trainer.dataset:
        given += f", {sum(e.steps for e in trainer.dataset)} recorded transitions"
    if getattr(trainer.agent.reward, "told", None) is not None:
        given += f", {len(trainer.agent.reward.told.label)} comparisons"
    if not resumed:
        return f"new run: {given}, device {trainer.agent.device}"
    complete = trainer.finished and trainer.counters["pending"] < 1
    return f"resumed at {_counts(trainer)}" + (": complete; a larger steps= (or minutes=) goes on" if complete else "")


def versions(device: torch.device) -> dict[str, str]:
    """What a run or an evaluation was made with: packages, commit, hardware."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {"python": sys.version.split()[0]}
    for package in ("torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "understudy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    command = ["git", "-C", str(Path(__file__).resolve().parent.parent), "rev-parse", "HEAD"]
    found["commit"] = "unknown"
    with contextlib.suppress(OSError):  # git is not there
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found["commit"] = done.stdout.strip() or "unknown"
    found["system"] = platform.platform()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{platform.machine()} CPU, {cores} cores"
    found["hardware"] = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return found


if __name__ == "__main__":
    sys.exit(main())
