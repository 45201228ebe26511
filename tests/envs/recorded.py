"""Reads one recorded episode's beginning from the public datasets, for replay tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def rows(datasets: Path, name: str, count: int) -> dict[str, np.ndarray]:
    """Return the first `count` rows of d4rl_layout/<name>.hdf5 by key ("actions", "infos/qpos", ...); skip without it.

    Row t holds the observation, joint positions and velocities before actions[t].
    """
    h5py = pytest.importorskip("h5py")
    path = datasets / "d4rl_layout" / f"{name}.hdf5"
    if not path.is_file():
        pytest.skip(f"public dataset not found: d4rl_layout/{name}.hdf5")
    with h5py.File(path) as file:
        infos = {f"infos/{key}": file["infos"][key][:count] for key in file["infos"]}
        return infos | {key: file[key][:count] for key in ("observations", "actions", "rewards")}
