"""Demonstration formats: one module each with NAME, SUFFIX, can_read(path) and read(path)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from demos.errors import DemoError
from demos.formats import cmil, d4rl, hdf5, minari, npz, own
from envs.episode import Episode


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    SUFFIX: str

    def can_read(self, path: Path) -> bool:
        """Whether the file is of this format, judged by its key names; DemoError if it is not even a container."""

    def read(self, path: Path) -> list[Episode]:
        """Decode the file, which holds one episode or more, without judging their contents."""


FORMATS: dict[str, Format] = {module.NAME: module for module in (own, cmil, d4rl, minari)}
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
    raise DemoError(path, "file", f"is of no known format: {known}")
