"""Demonstration formats: one module each with NAME, SUFFIX, can_read(path) and read(path)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from demos.errors import DemoError
from demos.formats import cmil, d4rl, hdf5, lerobot, minari, npz, own, robomimic
from demos.formats.wanted import ALL, Wanted
from envs.episode import Episode


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    SUFFIX: str

    def can_read(self, path: Path) -> bool:
        """Whether the file is of this format, judged by its key names; DemoError if it is not even a container."""

    def read(self, path: Path) -> Iterable[Episode]:
        """Decode the file, which holds one episode or more, without judging their contents."""


class Filmed(Format, Protocol):
    """What a format offers whose files may hold the pictures of several cameras, and more than is wanted."""

    def read(self, path: Path, wanted: Wanted = ALL) -> Iterable[Episode]:
        """Decode one episode after the other, of which no more than is wanted need be read."""


_FILMED: dict[str, Filmed] = {module.NAME: module for module in (robomimic, lerobot)}
_PLAIN: tuple[Format, ...] = (own, cmil, d4rl, minari)
FORMATS: dict[str, Format] = {module.NAME: module for module in (*_PLAIN, *_FILMED.values())}
_KEYS = {".npz": npz.keys, ".hdf5": hdf5.keys}
SUFFIXES = tuple(sorted({module.SUFFIX for module in FORMATS.values()}))


def sniff(path: Path) -> Format:
    """The format of a file, judged by its suffix and its key names.

    Raises:
        DemoError: no format knows the file, or it is damaged beyond telling.
    """
    for module in FORMATS.values():
        if path.suffix == module.SUFFIX and module.can_read(path):
            return module
    known = f"known are {', '.join(FORMATS)} ({', '.join(SUFFIXES)} files)"
    if path.suffix in _KEYS:
        known = f"its keys are {', '.join(sorted(_KEYS[path.suffix](path))) or '(none)'}; {known}"
    if path.suffix == lerobot.SUFFIX:
        known = f"no folder above it has meta/info.json, as a LeRobot data set has; {known}"
    raise DemoError(path, "file", f"is of no known format: {known}")


def read(path: Path, wanted: Wanted = ALL) -> Iterable[Episode]:
    """The episodes of a file of any known format, without judging their contents; a list where all are decoded at once.

    Raises:
        DemoError: see `sniff` and the format's own `read`; a camera is asked for that the format cannot have.
    """
    module = sniff(path)
    if module.NAME in _FILMED:
        return _FILMED[module.NAME].read(path, wanted)
    if wanted.camera is not None:
        raise DemoError(
            path, "camera", f"{wanted.camera!r} is asked for; files of the format {module.NAME} name no cameras"
        )
    return module.read(path)
