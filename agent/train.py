"""``python -m agent.train task=kitchen obs=pixels [KEY=VALUE ...]``: train, or continue, one run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Train to the end. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted and saved."""
    # Heavy imports happen here: environment workers import this module and need none of them.
    from agent.build import ConfigError
    from agent.checkpoint import CheckpointError
    from agent.data import ReplayError
    from demos.dataset import DemoError
    from envs.make import EnvError
    from envs.rendering import RenderingError

    try:
        return run(list(sys.argv[1:] if argv is None else argv))
    except (ConfigError, CheckpointError, ReplayError, DemoError, EnvError, RenderingError, OSError, ValueError) as error:
        print(f"agent.train: {error}", file=sys.stderr)
        return 1


def run(overrides: list[str]) -> int:
    """Compose, build, train; raises the errors that ``main`` turns into one line."""
    import torch

    from agent import checkpoint, plots
    from agent.build import build_agent, pick_device
    from agent.config import dump_config, load_config, set_threads
    from agent.data import Replay
    from agent.logger import Logger
    from agent.trainer import Trainer, fingerprint
    from demos import dataset
    from envs.vector import VectorEnv

    config, note = load_config(overrides)
    task, obs = config["task"], config["obs"]
    name = f"{task['name']}-{obs['name']}-{config['algo']['name']}-{config['size']['name']}-seed{config['seed']}"
    folder = Path(config["run"] or Path("runs") / name)
    state = checkpoint.load(folder / "checkpoint", fingerprint(config)) if folder.exists() else None
    source = dataset.shipped(task["name"]) if config["demos"] == "shipped" else Path(config["demos"])
    demos = dataset.load(source, task=task["name"], limit=config["n_demos"], obs_keys=(obs["key"],))
    set_threads(config["threads"])
    device = pick_device(config["device"])
    torch.manual_seed(config["seed"])
    agent = build_agent(config, demos[0].action.shape[1], device)
    folder.mkdir(parents=True, exist_ok=True)
    data = config["data"]
    replay = Replay(
        folder / "replay",
        obs_shape=demos[0].obs[obs["key"]].shape[1:],
        obs_dtype=demos[0].obs[obs["key"]].dtype,
        action_size=demos[0].action.shape[1],
        capacity=data["capacity"],
        budget_gb=data["budget_gb"],
    )
    if state is None:
        dump_config(config, folder / "config.yaml")
        (folder / "versions.json").write_text(json.dumps(_versions(), indent=1))
    lines = {} if state is None else {"resume_step": int(state["step"]), "resume_lines": state["logger_lines"]}
    with (
        VectorEnv(task["name"], obs["name"], data["envs"], options=task["options"]) as envs,
        Logger(folder, total=config["steps"], quiet=config["quiet"], **lines) as logger,
    ):
        trainer = Trainer(config, folder, agent, envs, replay, demos, logger, state)
        for text in filter(None, (note, f"run: {folder}", replay.describe(), _resumed(trainer, state is not None))):
            logger.note(text)

        def stop(*_: Any) -> None:
            trainer.stop = True
            logger.note("stopping: saving a checkpoint; the same command continues this run")

        previous = [signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)]
        try:
            trainer.train()
        finally:
            for s, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
                signal.signal(s, handler)
            replay.close()
    plots.curves(folder)
    plots.theorem2(folder)
    return 130 if trainer.stop else 0


def _resumed(trainer: Any, resumed: bool) -> str:
    counts = f"{trainer.step} steps, {int(trainer.counters['updates'])} updates"
    demos = f"{len(trainer.demos)} demonstrations"
    return f"resumed at {counts}" if resumed else f"new run: {demos}, device {trainer.agent.device}"


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "understudy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found["commit"] = done.stdout.strip() or "unknown"
    return found


if __name__ == "__main__":
    sys.exit(main())
