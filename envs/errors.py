"""Errors that environments raise for their users, and the helper that names the nearest valid word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EnvError(ValueError):
    """An environment was asked for something that it cannot do; the message says what and what would be valid."""


class RenderingError(EnvError):
    """No picture can be made on this machine; the message says what to install."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'? (valid: ...)" for a misspelt `word`, ready to end an error message."""
    choices = sorted(valid)
    if not choices:
        return " (nothing is valid here)"
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.0)
    return f"; did you mean {lowered[close[0]]!r}? (valid: {', '.join(choices)})"
