"""Checkpoints that survive being killed at any moment, and never need pickle.

    folder/latest.json               names of the kept checkpoints, newest first
    folder/step-000012000/           manifest.json   format, step, fingerprint, sha256 of the other files
                                     NAME.safetensors   one file a module
                                     state.json      everything else; its arrays and tensors in arrays.safetensors

A checkpoint is written to folder/tmp-..., synced, renamed, and only then named in latest.json, which therefore names
complete checkpoints at every moment. What a kill leaves behind is removed by the next save.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

FORMAT = 2
WEIGHTS_ALONE = 1  # an earlier format, whose optimisers are a pickle: not read
# attributes of the agent that are saved, where it has them: what it is, and what it has imagined
WEIGHTS = ("world", "reward", "policy", "slow", "coefficient")
MODULES = (*WEIGHTS, "memory", "past")
_ARRAY = "__array__"
_NUMBERED = "__numbered__"  # marks a dict with whole numbers as keys: an optimiser's state


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the file and the cause."""


# ---------------------------------------------------------------------- save


def save(folder: Path, state: Mapping[str, Any], *, fingerprint: Mapping[str, Any], keep: int = 2) -> Path:
    """Write a checkpoint, keep the newest `keep`, and return its folder.

    Args:
        folder: `RUN/checkpoint`; made if missing.
        state: must hold "step" (int >= 0). "modules": name -> state_dict of tensors. "optimisers": name -> state_dict
            of an optimiser. Any other key: nested dicts (keys: str, or whole numbers alone) and lists of str, int,
            float, bool, None, arrays, tensors.
        fingerprint: JSON-able settings that a later `load` must agree with.
    Raises:
        CheckpointError: the state cannot be stored, or the disk refused; earlier checkpoints are intact then.
    """
    folder = Path(folder)
    step = state.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"checkpoint: state['step'] is {step!r}, expected an int >= 0")
    previous = [name for name in _listed(folder) if _complete(folder / name)]
    temporary = folder / f"tmp-{step:09d}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder, previous)
        temporary.mkdir()
        _write_all(temporary, _encode(state), step, fingerprint)
        name = _free_name(step, previous)
        os.replace(temporary, folder / name)
        _sync_folder(folder)
        kept = [name, *previous][: max(1, keep)]
        _write_atomic(folder / "latest.json", _json({"format": FORMAT, "checkpoints": kept}))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "disk full" if full else error.strerror or str(error)
        safe = f"the previous checkpoint {previous[0]} is intact" if previous else "there is no previous checkpoint"
        raise CheckpointError(f"{cause} while saving a checkpoint to {folder} at step {step}; {safe}") from error
    except CheckpointError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _clean(folder, kept)
    return folder / name


def _encode(state: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content. Everything is in memory before the first byte is written, so bad states cost no disk."""
    files: dict[str, bytes] = {}
    for name, module in state.get("modules", {}).items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name == "arrays":
            raise CheckpointError(f"checkpoint: module name {name!r} cannot be a file name")
        files[f"{name}.safetensors"] = _tensors(f"modules.{name}", module)
    arrays: dict[str, torch.Tensor] = {}
    rest = {key: value for key, value in state.items() if key != "modules"}
    files["state.json"] = _json(_flatten_arrays(rest, "state", arrays))
    files["arrays.safetensors"] = _tensors("state", arrays)
    return files


def _tensors(path: str, tensors: Mapping[str, Any]) -> bytes:
    for key, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"checkpoint: {path}.{key} is {type(value).__name__}, expected a tensor")
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    return save_tensors({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})


def _flatten_arrays(value: Any, path: str, arrays: dict[str, torch.Tensor]) -> Any:
    """Replace arrays and tensors by placeholders, collecting them; refuse what JSON would change silently."""
    if isinstance(value, torch.Tensor):
        arrays[path] = value
        return {_ARRAY: "torch"}
    if isinstance(value, np.ndarray):
        # Bytes, because torch lacks some numpy types and would share memory with the caller.
        raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy()
        if value.dtype.kind not in "biuf":
            raise CheckpointError(f"checkpoint: {path} is an array of {value.dtype}, expected numbers or bools")
        arrays[path] = torch.from_numpy(raw)
        return {_ARRAY: "numpy", "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        numbered = bool(value) and all(isinstance(key, int) and not isinstance(key, bool) for key in value)
        for key in value:
            if not numbered and (not isinstance(key, str) or key in (_ARRAY, _NUMBERED)):
                raise CheckpointError(f"checkpoint: {path} has the key {key!r}; keys must be strings")
        flat = {str(key): _flatten_arrays(item, f"{path}.{key}", arrays) for key, item in value.items()}
        return flat | ({_NUMBERED: True} if numbered else {})
    if isinstance(value, (list, tuple)):
        return [_flatten_arrays(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise CheckpointError(f"checkpoint: {path} is a {type(value).__name__}, which cannot be stored")


def _write_all(folder: Path, files: Mapping[str, bytes], step: int, fingerprint: Mapping[str, Any]) -> None:
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    manifest = {"format": FORMAT, "step": step, "fingerprint": dict(fingerprint), "files": sums}
    for name, data in files.items():
        _write(folder / name, data)
    _write(folder / "manifest.json", _json(manifest, indent=1))
    _sync_folder(folder)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_atomic(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"tmp-{path.name}-{os.getpid()}")
    _write(temporary, data)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json(value: Any, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, indent=indent).encode()
    except TypeError as error:
        raise CheckpointError(f"checkpoint: not JSON-able: {error}") from error


def _free_name(step: int, taken: list[str]) -> str:
    """Pre-training saves more than once at the same number of environment steps."""
    name, count = f"step-{step:09d}", 1
    while name in taken:
        count += 1
        name = f"step-{step:09d}-{count}"
    return name


def _clean(folder: Path, kept: list[str]) -> None:
    """Remove leftovers of killed saves and checkpoints that are no longer kept."""
    for path in [*folder.glob("tmp-*"), *folder.glob("step-*")]:
        if path.name in kept:
            continue
        if path.is_dir():
            # Renamed first: a kill in the middle must not leave a damaged folder under a checkpoint's name.
            doomed = path if path.name.startswith("tmp-") else path.with_name(f"tmp-old-{path.name}-{os.getpid()}")
            if doomed != path:
                os.replace(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _complete(path: Path) -> bool:
    """Cheap check that a checkpoint has all its bytes."""
    try:
        files = json.loads((path / "manifest.json").read_bytes())["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _listed(folder: Path) -> list[str]:
    """Names of the checkpoints in `folder`, newest first; when latest.json is lost, what the folder holds."""
    try:
        names = json.loads((folder / "latest.json").read_bytes())["checkpoints"]
        return [str(name) for name in names]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{folder / 'latest.json'} is damaged ({error}); looking at the folder instead", stacklevel=3)
    pattern = re.compile(r"step-(\d+)(?:-(\d+))?")
    found = [(match, path.name) for path in folder.glob("step-*") if (match := pattern.fullmatch(path.name))]
    return [name for _, name in sorted(found, key=lambda f: (int(f[0][1]), int(f[0][2] or 1)), reverse=True)]


# ---------------------------------------------------------------------- load


def load(
    folder: Path,
    fingerprint: Mapping[str, Any] | None = None,
    *,
    counts: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    weights_alone: bool = False,
) -> dict[str, Any] | None:
    """Read the newest intact checkpoint (tensors on the CPU); None when the folder holds none.

    A damaged checkpoint costs a warning and the one before it is read.

    Args:
        fingerprint: compared with the saved one, when given; ``counts``: with what counts of that today.
        weights_alone: nothing is to be continued, so that a checkpoint of the earlier format will do.
    Raises:
        CheckpointError: the fingerprints differ (names every key and both values), or no checkpoint is readable.
    """
    folder = Path(folder)
    tried: dict[str, str] = {}
    while True:
        # Read again after a failure: a running training may have replaced the checkpoints meanwhile.
        names = [name for name in _listed(folder) if name not in tried]
        if not names:
            break
        try:
            manifest, files = _read_verified(folder / names[0], weights_alone)
            if fingerprint is not None:
                _compare(folder / names[0], counts(manifest["fingerprint"]), fingerprint)
            return _decode(files)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            tried[names[0]] = str(error)
            text = f"checkpoint {folder / names[0]} is damaged ({error}); trying the one before it"
            warnings.warn(text, stacklevel=2)
    if tried:
        causes = "; ".join(f"{name}: {cause}" for name, cause in tried.items())
        raise CheckpointError(f"no checkpoint in {folder} can be read: {causes}")
    return None


def _read_verified(path: Path, weights_alone: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    manifest = json.loads((path / "manifest.json").read_bytes())
    if manifest["format"] not in (FORMAT, WEIGHTS_ALONE):
        raise CheckpointError(f"{path}: format {manifest['format']}, this version reads {FORMAT}")
    if manifest["format"] == WEIGHTS_ALONE and not weights_alone:
        raise CheckpointError(
            f"{path} was written by an earlier version, whose optimisers cannot be read: it can be evaluated and "
            "exported, and a new run can begin from its weights (init=RUN), but it cannot be continued"
        )
    files = {name: (path / name).read_bytes() for name in manifest["files"]}
    for name, entry in manifest["files"].items():
        if hashlib.sha256(files[name]).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name}: checksum mismatch")
    return manifest, files


def _decode(files: Mapping[str, bytes]) -> dict[str, Any]:
    arrays = load_tensors(files["arrays.safetensors"])
    state = _restore_arrays(json.loads(files["state.json"]), "state", arrays)
    modules = [name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")]
    state["modules"] = {n: load_tensors(files[f"{n}.safetensors"]) for n in modules if n != "arrays"}
    return state


def _restore_arrays(value: Any, path: str, arrays: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict) and _ARRAY in value:
        if value[_ARRAY] == "torch":
            return arrays[path]
        raw = arrays[path].numpy().tobytes()
        return np.frombuffer(raw, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    if isinstance(value, dict):
        numbered = _NUMBERED in value
        each = {k: _restore_arrays(item, f"{path}.{k}", arrays) for k, item in value.items() if k != _NUMBERED}
        return {int(key): item for key, item in each.items()} if numbered else each
    if isinstance(value, list):
        return [_restore_arrays(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    return value


# ---------------------------------------------------------------------- fingerprint and random states


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a.b.c": leaf}; lists are leaves, an empty dict is a leaf."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _compare(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # Through JSON, so that tuples and lists, 1 and 1.0 compare as they were stored.
    old, new = flatten(saved), flatten(json.loads(_json(dict(now))))
    missing = object()
    differ = [key for key in sorted(old | new) if old.get(key, missing) != new.get(key, missing)]
    if differ:
        lines = "; ".join(
            f"{k}: saved {_show(old[k]) if k in old else 'nothing'}, now {_show(new[k]) if k in new else 'nothing'}"
            for k in differ
        )
        raise CheckpointError(
            f"{path} was made with other settings ({lines}): use the saved settings, or another run folder"
        )


def _show(value: Any) -> str:
    return json.dumps(value)


def rng_state(generators: Mapping[str, np.random.Generator | torch.Generator]) -> dict[str, Any]:
    """States of the named generators and of torch's global ones (CPU and every CUDA device), for `save`."""
    named = {
        name: g.bit_generator.state if isinstance(g, np.random.Generator) else g.get_state()
        for name, g in generators.items()
    }
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"named": named, "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any], generators: Mapping[str, np.random.Generator | torch.Generator]) -> None:
    """Put the generators and torch's global ones back, in place.

    Raises:
        CheckpointError: the checkpoint holds other generators than the ones given.
    """
    if set(state["named"]) != set(generators):
        raise CheckpointError(f"random generators differ: saved {sorted(state['named'])}, now {sorted(generators)}")
    for name, generator in generators.items():
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state["named"][name]
        else:
            generator.set_state(state["named"][name])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
