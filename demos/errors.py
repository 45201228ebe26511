"""The one error that bad demonstrations raise."""

from __future__ import annotations

from pathlib import Path


class DemoError(Exception):
    """A demonstration that cannot be used; reads as the single line ``file: key: reason``.

    Args:
        path: the file or folder at fault.
        key: the array, meta entry or argument at fault ("file" when it is the file as a whole).
        reason: what is wrong, in words a user can act on; line breaks are folded into spaces.
    """

    def __init__(self, path: str | Path, key: str, reason: str) -> None:
        self.path = Path(path)
        self.key = key
        self.reason = " ".join(reason.split())
        super().__init__(f"{self.path}: {key}: {self.reason}")
