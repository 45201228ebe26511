"""key=value command lines for the programs in this folder: a frozen dataclass says what there is to set."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from demos.errors import DemoError
from envs.errors import EnvError, nearest

Options = TypeVar("Options")

_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class UsageError(Exception):
    """A command line that cannot be understood; one line that says what to type instead."""


def parse(argv: Sequence[str], options: type[Options], positional: str | None = None) -> Options:
    """Fill the dataclass `options` from ``key=value`` arguments.

    Args:
        argv: the arguments after the program's name.
        options: dataclass with fields of type str, int, float, bool, Path, or one of these | None; fields without
            a default are required. ``none`` sets an optional field to None.
        positional: the field that one argument without ``=`` sets.

    Raises:
        UsageError: unknown or repeated key (naming the nearest valid one), a value of the wrong type, a missing
            required key.
    """
    fields = {field.name: field for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(options)
    values: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        # A bare path may contain "=": it is a value unless what precedes "=" looks like a key.
        if not equals or not key.isidentifier():
            key, text = positional or "", argument
            if positional is None or positional in values:
                raise UsageError(f"{argument!r} is not key=value; keys: {', '.join(fields)}")
        if key not in fields:
            raise UsageError(f"unknown key {key!r}{nearest(key, fields)}")
        if key in values:
            raise UsageError(f"{key} is given twice")
        values[key] = _convert(key, text, hints[key])
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{name}=... is missing; keys: {', '.join(fields)}")
    return options(**values)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the usage is all that is wanted."""
    return bool({"-h", "--help", "help"} & set(arguments))


def explained(usage: str, options: type[Any]) -> str:
    """A usage line, and below it what the docstring of the dataclass says of each key."""
    return f"{usage}\n\n{inspect.getdoc(options)}"


def run(
    body: Callable[[Options], Any],
    options: type[Options],
    argv: Sequence[str] | None,
    usage: str,
    positional: str | None = None,
    *,
    program: str = "",
    errors: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted; what was finished is kept",
) -> int:
    """The frame of a program: parse, do `body`, return the exit code.

    Args:
        body: what the program does.
        options: see `parse`.
        argv: the arguments after the program's name; None: those of this process.
        usage: printed for ``--help``; its first line stands behind errors in the arguments.
        positional: see `parse`.
        program: stands before every error.
        errors: what is told in one line besides UsageError, DemoError and EnvError.
        interrupted: what is told after Ctrl-C.

    Returns:
        0 on success and for ``--help``; 1 after printing one line on standard error; 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = f"{program}: " if program else ""
    told: tuple[type[Exception], ...] = (DemoError, EnvError, *errors)
    if asks_for_help(arguments):
        print(usage)
        return 0
    try:
        body(parse(arguments, options, positional))
    except UsageError as error:
        print(f"{before}{error} (usage: {usage.splitlines()[0]})", file=sys.stderr)
        return 1
    except told as error:
        print(f"{before}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{before}{interrupted}", file=sys.stderr)
        return 130
    return 0


def _convert(key: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() in {"none", "null"}:
        return None
    kind = next(one for one in kinds if one is not type(None))
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise UsageError(f"{key}={text}: expected true or false")
        return _BOOLS[text.lower()]
    if text == "":
        raise UsageError(f"{key}= has no value")
    try:
        return Path(text).expanduser() if kind is Path else kind(text)
    except ValueError as error:
        raise UsageError(f"{key}={text}: expected {kind.__name__}") from error
