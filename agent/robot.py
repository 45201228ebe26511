"""Whether two sources tell of the same robot; `demos.robot` says what there is to tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# what nobody sees who sees the other: pictures have no named numbers, states come from no camera
UNSEEN = {"image": "state", "state": "camera"}
RECORDED = "recorded"  # of the actions: a range, which two sources of one robot need not share


def differing(one: Mapping[str, Any], other: Mapping[str, Any], key: str, *, both: bool) -> str | None:
    """The first entry in which what two sources tell of their robot differs, and how, for messages; None: in nothing.

    key: of the observations, "image" or "state". both: an entry that only one of them tells is a difference, as where
    nothing but recordings says what [-1, 1] is; otherwise it is none, since a simulator says it.
    """
    for part in sorted((set(one) | set(other)) - {UNSEEN[key]}):
        ours, theirs = one.get(part), other.get(part)
        if ours is None or theirs is None:
            if both:
                return f"{part} is told by one of them alone"
        elif ours != theirs and not (isinstance(ours, dict) and isinstance(theirs, dict)):
            return f"{part} is {ours} and {theirs}"
        elif ours != theirs:
            for name in sorted((set(ours) | set(theirs)) - {RECORDED}):
                if ours.get(name) != theirs.get(name):
                    hint = " (demos.convert like=PATH gives two sets one scale)" if name in ("low", "high") else ""
                    return f"{part}.{name} is {ours.get(name)} and {theirs.get(name)}{hint}"
    return None
