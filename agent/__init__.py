"""Everything that learns, loops or ships: the six parts' implementations, the trainer and the commands."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent


def _refuse_others() -> None:
    """Raise ImportError where a file or folder of somebody else's, mostly in the working directory, is imported in
    place of this project's: such names are common, and what would follow does not tell why.
    """
    for package in ("demos", "envs", "models"):
        if (other := _place(package)) == _HOME / package / "__init__.py":
            continue
        for file in sorted((_HOME / package).glob("[!_]*.py")):  # a plain folder, of weights say, may hide none of them
            module = f"{package}.{file.stem}"
            if (found := _place(module)) != file:
                # with its name, because `python -m` then tells it in one line
                text = f"{other or found} is imported in place of this project's {module}"
                raise ImportError(f"{text}: start in another folder, or rename it", name=__name__)


def _place(module: str) -> Path | None:
    """The file that `module` would be imported from; None: there is none, as of a plain folder."""
    try:
        spec = find_spec(module)
    except ImportError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


_refuse_others()
