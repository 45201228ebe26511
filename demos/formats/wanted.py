"""What of a file is asked for, where a format's files may hold more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """keys: the observations, None: all. camera: whose pictures, where there are those of several. instruction:
    episodes that were to do this, None: any. A format that can leave out the rest does; others decode more.
    """

    keys: Collection[str] | None = None
    camera: str | None = None
    instruction: str | None = None

    @property
    def pictures(self) -> bool:
        """Whether pictures are to be read."""
        return self.keys is None or "image" in self.keys


ALL = Wanted()
