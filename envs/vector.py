"""Many environments stepped together, each in its own spawned process, deterministic given the seeds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from envs.errors import EnvError
from envs.make import check, make

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_START_SECONDS = 180.0
_Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class VectorEnv:
    """n copies of one environment; nothing resets by itself, so the caller sees every last observation.

    The first error of any environment closes all of them and is raised as EnvError: an EnvError with its own line, any
    other with the worker's traceback.

    Every environment runs with the seeds and in the order that it is given, so results do not depend on how fast
    workers are, nor on whether there are processes at all.
    """

    def __init__(
        self,
        task: str,
        obs: str,
        n: int,
        *,
        processes: bool = True,
        render: str = "fast",
        options: dict[str, Any] | None = None,
    ) -> None:
        """Start the environments.

        Args:
            task, obs, render, options: see envs.make.make.
            n: how many, 1 or more.
            processes: one spawned process each, limited to one thread; otherwise all in this process, in turn.

        Raises:
            EnvError: a bad argument, or a worker that did not start (with its traceback).
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        if n < 1:
            raise EnvError(f"a vector needs 1 or more environments, got {n}")
        options = dict(options or {})
        self.task = task
        self._workers: list[_Local | _Remote] = []
        # mistakes shall fail here, not in a worker; and workers inherit the answer of the OpenGL probe
        self._drawn = render, check(task, obs, render, options)
        if not processes:
            self._workers = [_Local(task, obs, render, options) for _ in range(n)]
        else:
            with _one_thread():
                self._workers = [_Remote(index, task, obs, render, options) for index in range(n)]
        ready = self._all([("spaces", None)] * n)
        self.observation_space, self.action_space, self.subtasks, self.horizon, *told = ready[0]
        self.full_score, self.episodes, self.note = told

    def __len__(self) -> int:
        """Return the number of environments."""
        return len(self._workers)

    def __enter__(self) -> VectorEnv:
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the environments."""
        self.close()

    def different(self, n: int) -> int:
        """How many of n episodes, with seeds that follow each other, differ: recordings played twice tell nothing."""
        return n if self.episodes is None else min(n, self.episodes)

    def drawing(self, seconds: float = 0.3) -> str:
        """Who draws the pictures, and how many a second in one process; empty where no OpenGL is needed.

        Episodes begin anew after it.
        """
        style, backend = self._drawn
        if not backend:
            return ""
        self.reset([0])
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            self._one(0, "render", 64)
            count += 1
        return f"pictures: {style}, drawn through {backend}, {count / spent:.0f} a second for each environment"

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Reset the first len(seeds) environments; return observations (n, ...) and infos."""
        self._check_open()
        if not 1 <= len(seeds) <= len(self):
            raise EnvError(f"{len(self)} environments take 1 to {len(self)} seeds, got {len(seeds)}")
        results = self._all([("reset", (int(seed), None)) for seed in seeds])
        return np.stack([obs for obs, _ in results]), [info for _, info in results]

    def reset_at(self, index: int, seed: int, sim_state: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset one environment, to a stored simulator state (S,) if given; return its observation and info."""
        result: tuple[np.ndarray, dict[str, Any]] = self._one(index, "reset", (int(seed), sim_state))
        return result

    def step(
        self, actions: np.ndarray, which: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the first len(actions) environments, or those named, each once: obs (n, ...), reward, terminated,
        truncated (n,), infos.
        """
        self._check_open()
        named = list(range(len(actions)) if which is None else which)
        if not 1 <= len(actions) <= len(self) or len(named) != len(actions) or len(set(named)) < len(named):
            raise EnvError(f"{len(self)} environments take 1 to {len(self)} actions, got {len(actions)}")
        results: list[_Step] = self._all([("step", np.asarray(action)) for action in actions], named)
        obs, reward, terminated, truncated, infos = zip(*results, strict=True)
        flags = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        return np.stack(obs), np.array(reward, np.float32), *flags, list(infos)

    def get_states(self) -> np.ndarray:
        """Return every simulator state, (n, S) float64."""
        return np.stack(self._all([("state", None)] * len(self)))

    def render_at(self, index: int, size: int = 64) -> np.ndarray:
        """Return the picture (size, size, 3) uint8 of one environment."""
        picture: np.ndarray = self._one(index, "render", size)
        return picture

    def close(self) -> None:
        """Stop all environments; may be called twice."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.close()

    def _check_open(self) -> None:
        """Raise EnvError after close, whoever called it."""
        if not self._workers:
            raise EnvError("this vector of environments has been closed")

    def _one(self, index: int, command: str, value: Any) -> Any:
        """Run one command in environment `index`; EnvError if there is none such."""
        self._check_open()
        if not 0 <= index < len(self):
            raise EnvError(f"no environment {index} among {len(self)}")
        worker = self._workers[index]
        try:
            worker.send(command, value)
            return worker.receive()
        except BaseException:
            self.close()
            raise

    def _all(self, commands: Sequence[tuple[str, Any]], which: Sequence[int] | None = None) -> list[Any]:
        """Send one command to each environment (``which``: to those), then collect the answers in order."""
        self._check_open()
        asked = [self._workers[i] for i in (range(len(commands)) if which is None else which)]
        try:
            for worker, (command, value) in zip(asked, commands, strict=True):
                worker.send(command, value)
            return [worker.receive() for worker in asked]
        except BaseException:
            # the other workers' answers are still in their pipes; going on would pair them with the wrong questions
            self.close()
            raise


def _execute(env: Any, command: str, value: Any) -> Any:
    """Run one command on an environment; the vocabulary of VectorEnv."""
    if command == "step":
        return env.step(value)
    if command == "reset":
        seed, sim_state = value
        return env.reset(seed=seed, options=None if sim_state is None else {"sim_state": sim_state})
    if command == "state":
        return env.unwrapped.get_state()
    if command == "render":
        return env.unwrapped.render(value)
    if command == "spaces":
        inner = env.unwrapped
        spaces = env.observation_space, env.action_space
        return *spaces, inner.subtasks, inner.horizon, inner.full_score, inner.episodes, inner.note
    raise EnvError(f"unknown command {command!r}")


class _Local:
    """An environment in this process, behind the same two verbs as a remote one."""

    def __init__(self, task: str, obs: str, render: str, options: dict[str, Any]) -> None:
        """Make the environment."""
        self._env = make(task, obs, render=render, **options)
        self._command: tuple[str, Any] | None = None

    def send(self, command: str, value: Any) -> None:
        """Keep the command; it runs in `receive`, in the order of a remote one."""
        self._command = (command, value)

    def receive(self) -> Any:
        """Run the command and return its result."""
        if self._command is None:
            raise EnvError("nothing was sent to this environment")
        command, self._command = self._command, None
        return _execute(self._env, *command)

    def stop(self) -> None:
        """Nothing runs between commands, so nothing is to be stopped."""

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


class _Remote:
    """An environment in a spawned process at the other end of a pipe."""

    def __init__(self, index: int, task: str, obs: str, render: str, options: dict[str, Any]) -> None:
        """Start the process; its first answer comes when the environment stands."""
        context = multiprocessing.get_context("spawn")
        self._name = f"environment worker {index} ({task}, {obs})"
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_work, args=(child, task, obs, render, options), daemon=True)
        self._process.start()
        child.close()
        self._started = False

    def send(self, command: str, value: Any) -> None:
        """Send one command; a broken pipe is reported by `receive`, which may still find the worker's last words."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send((command, value))

    def receive(self) -> Any:
        """Return the answer. Raises EnvError with the worker's line or traceback if it failed, or that it died."""
        try:
            if not self._started and not self._pipe.poll(_START_SECONDS):
                raise EnvError(f"{self._name} did not start within {_START_SECONDS:.0f} s")
            self._started = True
            success, result = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(5.0)
            code = self._process.exitcode
            raise EnvError(f"{self._name} died without a traceback (exit code {code}); was it killed?") from error
        if not success:
            raise EnvError(f"{self._name} failed: {result}")
        return result

    def stop(self) -> None:
        """Ask the process to end, without waiting for it."""
        with contextlib.suppress(OSError):
            self._pipe.send(("close", None))

    def close(self) -> None:
        """Wait for the process that was asked to end, and end it if it does not listen."""
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5.0)
        self._pipe.close()


def _work(pipe: Connection, task: str, obs: str, render: str, options: dict[str, Any]) -> None:
    """Serve one environment until told to close; the first failure is sent back as text and ends the process."""
    env = None
    try:
        env = make(task, obs, render=render, **options)
        while True:
            command, value = pipe.recv()
            if command == "close":
                break
            pipe.send((True, _execute(env, command, value)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent is gone, or both were interrupted: nobody is left to read a report
    except Exception as error:
        # everything is reported: the parent raises it again with this text; what is told in one line stays one line
        with contextlib.suppress(BrokenPipeError):
            pipe.send((False, str(error) if isinstance(error, EnvError) else f"\n{traceback.format_exc()}"))
    finally:
        if env is not None:
            env.close()
        pipe.close()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes started inside the block use one thread each: n of them already fill the machine."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
