"""Comparisons of segments: the file that ``preferences=PATH`` names (algorithms 3.15), and how pairs are drawn.

A segment is t pairs of one episode. The file is one compressed npz without pickle; no reward is in it. Images are
stored as differences to the frame before, as in the project's own demonstrations.

===================  ==================================  ===============================================================
key                  dtype, shape                        content
===================  ==================================  ===============================================================
preferences_version  int64 ()                            1
state                float32 (n, 2, t, d)                observations of both segments; or image_delta
image_delta          uint8 (n, 2, t, h, w, 3)            at time 0 the frame, then each frame minus the one before
action               float32 (n, 2, t, A)                action[..., k, :] was taken in the observation k
label                float32 (n,)                        0: the first is preferred, 1: the second, 0.5: neither; NaN in
                                                         all: not yet labelled
number               int64 (n,)                          which of the pairs that were drawn: ascending
meta                 unicode ()                          JSON object: task, source, labels (who said so), seed, ...
===================  ==================================  ===============================================================
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demos.dataset import fits, write_atomic
from demos.errors import DemoError
from demos.formats import npz, own
from envs.episode import Episode

VERSION = 1
SUFFIX = ".npz"
KEYS = {"state": "state", "image": "image_delta"}  # observation -> array of the file
_REQUIRED = ("preferences_version", "action", "label", "number", "meta")
_TRIES = 1000


class Segment(NamedTuple):
    """Pairs start, start + 1, ... of an episode, by its place in a list."""

    episode: int
    start: int


@dataclass(frozen=True, eq=False)
class Comparisons:
    """n comparisons of segments of t pairs; see the table at the top. obs: of kind ``key``, "state" or "image"."""

    key: str
    obs: np.ndarray
    action: np.ndarray
    label: np.ndarray
    number: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return n."""
        return len(self.label)

    def checksum(self) -> str:
        """SHA-256 (hex) of all that a learner sees: observations, actions, labels; of unlabelled ones, of the pairs."""
        digest = hashlib.sha256(self.key.encode())
        for value in (self.obs, self.action, self.label):
            digest.update(f"{value.dtype.str} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def labelled(self, answers: Mapping[int, float], **meta: Any) -> Comparisons:
        """Those whose number has an answer, with it as their label, and more ``meta``."""
        rows = np.flatnonzero([int(number) in answers for number in self.number])
        label = np.array([answers[int(number)] for number in self.number[rows]], np.float32)
        return Comparisons(
            self.key, self.obs[rows], self.action[rows], label, self.number[rows], self.meta | {"labels": None} | meta
        )


def save(path: str | Path, comparisons: Comparisons) -> None:
    """Write the file, whole or not at all; an existing one is replaced. Raises DemoError when it would be invalid."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise DemoError(path, "file", f"the name must end in {SUFFIX}")
    check(path, comparisons, labelled=not np.isnan(comparisons.label).all())
    obs = comparisons.obs
    if comparisons.key == "image":
        obs = obs.copy()
        obs[:, :, 1:] -= comparisons.obs[:, :, :-1]
    try:
        meta = np.array(json.dumps(comparisons.meta, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DemoError(path, "meta", f"is not JSON: {error}") from error
    buffer = io.BytesIO()
    data = {"action": comparisons.action, "label": comparisons.label, "number": comparisons.number, "meta": meta}
    version = np.array(VERSION, np.int64)
    np.savez_compressed(buffer, allow_pickle=False, preferences_version=version, **{KEYS[comparisons.key]: obs}, **data)
    write_atomic(path, buffer.getvalue())


def load(
    path: str | Path,
    *,
    task: str | None = None,
    key: str | None = None,
    options: Mapping[str, Any] | None = None,
    labelled: bool = True,
) -> Comparisons:
    """Read and check a file.

    Args:
        task: refuse comparisons of another task.
        key: refuse other observations than "state" or "image".
        options: of the task, that the arrays shall fit (`demos.dataset.load`).
        labelled: refuse a file without labels (or, if false, one with them).

    Raises:
        DemoError: anything wrong with the path or the file.
    """
    path = Path(path)
    if not path.is_file():
        raise DemoError(path, "path", "no such file")
    if "preferences_version" not in npz.keys(path):
        raise DemoError(
            path, "preferences_version", "missing: no file of comparisons (python -m agent.label makes them)"
        )
    data = npz.arrays(path, _REQUIRED, tuple(KEYS.values()))
    version = data["preferences_version"]
    if version.shape != () or version.dtype.kind not in "iu" or version != VERSION:
        raise DemoError(path, "preferences_version", f"is {version!s}; this program reads version {VERSION}")
    kinds = [kind for kind, name in KEYS.items() if name in data]
    if len(kinds) != 1:
        raise DemoError(path, "state", "missing, and image_delta too" if not kinds else "is there beside image_delta")
    obs = data[KEYS[kinds[0]]]
    if kinds == ["image"]:
        if obs.dtype != np.uint8 or obs.ndim != 6:
            raise DemoError(path, "image_delta", f"must be uint8 (n, 2, t, h, w, 3), got {obs.dtype} {obs.shape}")
        obs = np.cumsum(obs, axis=2, dtype=np.uint8)
    meta = own.read_meta(path, data["meta"])
    found = Comparisons(kinds[0], obs, data["action"], data["label"], data["number"], meta)
    check(path, found, labelled=labelled)
    if task is not None and meta.get("task") != task:
        raise DemoError(path, "task", f"is {meta.get('task')!r}; this run is about {task!r}")
    if key is not None and key != found.key:
        raise DemoError(path, KEYS[key], f"missing; the comparisons are of {found.key}s, this run sees {key}s")
    fits(path, meta, ("action", found.key), options or {})
    return found


def check(path: str | Path, found: Comparisons, *, labelled: bool) -> None:
    """Raise DemoError, naming the array, unless all of them keep to the table at the top."""
    action, label, number, name = found.action, found.label, found.number, KEYS[found.key]
    if action.dtype != np.float32 or action.ndim != 4 or action.shape[1] != 2 or 0 in action.shape:
        raise DemoError(path, "action", f"must be float32 (n, 2, t, A), got {action.dtype} {action.shape}")
    kind, ndim = (np.float32, 4) if found.key == "state" else (np.uint8, 6)
    if found.obs.dtype != kind or found.obs.ndim != ndim or 0 in found.obs.shape:
        wanted = "float32 (n, 2, t, d)" if found.key == "state" else "uint8 (n, 2, t, h, w, 3)"
        raise DemoError(path, name, f"must be {wanted}, got {found.obs.dtype} {found.obs.shape}")
    if found.obs.shape[:3] != action.shape[:3]:
        raise DemoError(path, name, f"comparisons, segments and steps are {found.obs.shape[:3]}, of action "
                                    f"{action.shape[:3]}: segments have equal lengths")  # fmt: skip
    for key, value, dtype in (("label", label, np.float32), ("number", number, np.int64)):
        if value.dtype != dtype or value.shape != action.shape[:1]:
            raise DemoError(path, key, f"must be {np.dtype(dtype)} {action.shape[:1]}, got {value.dtype} {value.shape}")
    for key, value in ((name, found.obs), ("action", action)):
        if value.dtype == np.float32 and not np.isfinite(value).all():
            n = int(np.argwhere(~np.isfinite(value))[0][0])
            raise DemoError(path, key, f"contains NaN or infinity, first in comparison {n}")
    if (largest := float(np.abs(action).max())) > 1:
        raise DemoError(path, "action", f"must lie in [-1, 1], largest magnitude is {largest:.6g}")
    if (np.diff(number) <= 0).any():
        raise DemoError(path, "number", "must ascend: a pair is there once")
    if not labelled and not np.isnan(label).all():
        raise DemoError(path, "label", "is there already: the file waits for no answers")
    if labelled and np.isnan(label).all():
        raise DemoError(
            path, "label", "is NaN: nobody has said yet which is preferred (python -m agent.label answers=...)"
        )
    if labelled and not np.isin(label, (0.0, 0.5, 1.0)).all():
        n = int(np.flatnonzero(~np.isin(label, (0.0, 0.5, 1.0)))[0])
        raise DemoError(path, "label", f"must be 0, 0.5 or 1, is {label[n]:g} in comparison {n}")
    if not isinstance(found.meta.get("task"), str):
        raise DemoError(path, "meta", "tells no task")


def draw(
    path: str | Path, episodes: Sequence[Episode], *, pairs: int, length: int, rng: np.random.Generator
) -> tuple[list[tuple[Segment, Segment]], str]:
    """Pairs of segments of ``length`` pairs that do not overlap, and a line that tells what they are drawn from.

    Every segment is equally likely. Those that end by termination are left out: what is compared has equal lengths, and
    nothing that is lost is left out of a sum (algorithms 3.15).

    Raises:
        DemoError: a bad number, or no two segments.
    """
    if pairs < 1 or length < 1:
        raise DemoError(path, "pairs" if pairs < 1 else "length", "expected at least 1")
    room = np.array([max(0, e.steps - length + 1 - int(e.is_terminal[-1])) for e in episodes])
    ends, chosen = np.cumsum(room), []
    longest = max(e.steps for e in episodes)
    if not room.any():
        reason = f"no episode has {length} steps that do not end by termination; the longest has {longest} steps"
        raise DemoError(path, "length", reason)

    def one() -> Segment:
        at = int(rng.integers(ends[-1]))
        episode = int(np.searchsorted(ends, at, side="right"))
        return Segment(episode, at - int(ends[episode] - room[episode]))

    for _ in range(pairs):
        first = one()
        for _ in range(_TRIES):
            second = one()
            if second.episode != first.episode or abs(second.start - first.start) >= length:
                break
        else:
            raise DemoError(path, "length", f"no two segments of {length} steps that do not overlap")
        chosen.append((first, second))
    lost = sum(bool(e.is_terminal[-1]) and e.steps >= length for e in episodes)
    return chosen, (
        f"{pairs} pairs of segments of {length} steps, out of {ends[-1]} in {np.count_nonzero(room)} of "
        f"{len(episodes)} episodes; left out: {lost} that end by termination, {(room == 0).sum()} episodes too short"
    )


def cut(
    episodes: Sequence[Episode], chosen: Sequence[tuple[Segment, Segment]], length: int, key: str, meta: dict[str, Any]
) -> Comparisons:
    """The pairs of segments as comparisons without labels. meta: beside task and options, which the episodes tell."""
    obs, action = (
        np.stack([np.stack([rows[i][s:][:length] for i, s in pair]) for pair in chosen])
        for rows in ([e.obs[key][:-1] for e in episodes], [e.action[1:] for e in episodes])
    )
    told = {name: episodes[0].meta[name] for name in ("task", "options") if name in episodes[0].meta}
    label = np.full(len(chosen), np.nan, np.float32)
    return Comparisons(key, obs, action, label, np.arange(len(chosen)), told | meta | {"labels": None})


def returns(episodes: Sequence[Episode], chosen: Sequence[tuple[Segment, Segment]], length: int) -> np.ndarray:
    """Sums (n, 2) of the recorded rewards of every segment, for synthetic labels alone."""
    rewards = [e.reward[1:].astype(np.float64) for e in episodes]
    return np.array([[rewards[i][s:][:length].sum() for i, s in pair] for pair in chosen])
