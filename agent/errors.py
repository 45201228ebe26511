"""The error that a bad configuration raises, wherever that is found out."""

from __future__ import annotations


class ConfigError(ValueError):
    """The configuration asks for something that does not exist or does not fit together."""
