"""The house rules that a program can see: who may import whom, no pickle, no branch on an algorithm's name.

Every source file is parsed, never imported, so a rule also holds for code inside functions and `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agent", "benchmark", "configs", "demos", "envs", "models")
FORBIDDEN = {
    "envs": {"torch", "agent", "models", "demos", "hydra", "omegaconf", "benchmark"},
    "demos": {"torch", "agent", "models", "hydra", "omegaconf", "benchmark"},
    "models": {"agent", "demos", "envs", "benchmark"},
    "configs": {"agent", "benchmark"},
    "agent": {"benchmark"},
    "benchmark": set(),
}
MODELS_MAY_IMPORT = {"torch", "einops", "models"}
INDEPENDENT_PARTS = ("agent.reward", "agent.policy", "agent.starts", "agent.penalties")
LATE = {"import_module", "__import__", "_Entry"}  # calls whose first argument is a module to be imported
# task=own: recordings that are played as an environment, made by name when asked for; the arrow stands otherwise
EXCEPTIONS = {("envs/make.py", "demos.recorded_env")}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ALGORITHM_NAMES = {"algo", "algorithm", "algo_name", "algorithm_name"}


def module_name(path: Path) -> str:
    """agent/reward/bce.py -> agent.reward.bce; a package's __init__.py names the package."""
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of all that the file at `path` imports; relative imports are resolved from the root.

    `from a.b import c` yields a.b.c: whether c is a module or an object, a rule about a.b or a.b.c sees it.
    """
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*prefix, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in LATE:
            for arg in node.args[:1]:
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                    yield node.lineno, arg.value


def part_of(name: str) -> str | None:
    """The independent part that a module or imported name belongs to, if any."""
    return next((part for part in INDEPENDENT_PARTS if name == part or name.startswith(part + ".")), None)


def import_findings(tree: ast.AST, path: Path) -> list[str]:
    """Imports of one file that break an arrow."""
    found = []
    own_package, own_part = path.parts[0], part_of(module_name(path))
    for line, name in imports(tree, path):
        top, part = name.split(".")[0], part_of(name)
        allowed = top not in FORBIDDEN[own_package]
        if own_package == "models":
            allowed = allowed and (top in MODELS_MAY_IMPORT or top in sys.stdlib_module_names)
        if top in PICKLES or not (allowed or (path.as_posix(), name) in EXCEPTIONS):
            found.append(f"{path}:{line}: {own_package} must not import {name}")
        if own_part is not None and part is not None and part != own_part:
            found.append(f"{path}:{line}: {own_part} must not import {part}")
    return found


def pickle_findings(tree: ast.AST, path: Path) -> list[str]:
    """Calls that would load a pickle through numpy or torch."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        options = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
        given = {k.arg for k in node.keywords}
        if "allow_pickle" in given and options.get("allow_pickle") is not False:
            found.append(f"{path}:{node.lineno}: allow_pickle must be False")
        if ast.unparse(node.func) == "torch.load" and options.get("weights_only") is not True:
            found.append(f"{path}:{node.lineno}: torch.load needs weights_only=True")
    return found


def names_an_algorithm(node: ast.expr) -> bool:
    """cfg.algo, cfg["algo"], algo, algo.name, str(cfg.algo).lower() ..."""
    if isinstance(node, ast.Name):
        return node.id in ALGORITHM_NAMES
    if isinstance(node, ast.Attribute):
        return node.attr in ALGORITHM_NAMES or (node.attr == "name" and names_an_algorithm(node.value))
    if isinstance(node, ast.Subscript):
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return key in ALGORITHM_NAMES or (key == "name" and names_an_algorithm(node.value))
    if isinstance(node, ast.Call):
        receiver = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        return any(names_an_algorithm(part) for part in [*receiver, *node.args])
    return False


def is_literal_text(node: ast.expr) -> bool:
    """A string constant, or a collection written out with one."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return isinstance(node, ast.List | ast.Tuple | ast.Set) and any(is_literal_text(item) for item in node.elts)


def branch_findings(tree: ast.AST, path: Path) -> list[str]:
    """Places that decide by an algorithm's name; what differs between algorithms belongs into their YAML."""
    found = []
    for node in ast.walk(tree):
        branches = False
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, sides[1:], strict=False)
            branches = any(
                (names_an_algorithm(a) and is_literal_text(b)) or (is_literal_text(a) and names_an_algorithm(b))
                for a, b in pairs
            )
        elif isinstance(node, ast.Match):
            branches = names_an_algorithm(node.subject)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            branches = node.func.attr in {"startswith", "endswith"} and names_an_algorithm(node.func.value)
        if branches:
            found.append(f"{path}:{node.lineno}: branches on an algorithm's name")
    return found


RULES = {"imports": import_findings, "pickle": pickle_findings, "algorithm names": branch_findings}
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("rule", RULES)
def test_every_source_file_keeps_the_rule(rule: str) -> None:
    found = []
    for path in FILES:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))
        found += RULES[rule](tree, path)
    assert not found, "\n" + "\n".join(found)


def test_every_package_was_walked() -> None:
    assert {path.parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        ("imports", "envs/a.py", "import torch"),
        ("imports", "envs/a.py", "def f():\n    import torch.nn as nn"),
        ("imports", "envs/a.py", "from demos.dataset import load"),
        ("imports", "envs/a.py", "import importlib\nimportlib.import_module('torch')"),
        ("imports", "demos/formats/a.py", "from ... import models"),
        ("imports", "demos/a.py", "from hydra import main"),
        ("imports", "demos/a.py", "from agent import data"),
        ("imports", "models/a.py", "import numpy as np"),
        ("imports", "models/a.py", "from omegaconf import DictConfig"),
        ("imports", "models/a.py", "from envs.episode import to_pairs"),
        ("imports", "models/a.py", "import pickle"),
        ("imports", "agent/reward/a.py", "from agent.policy.bc import BC"),
        ("imports", "agent/reward/a.py", "from ..policy.bc import BC"),
        ("imports", "agent/reward/__init__.py", "from .. import starts"),
        ("imports", "agent/penalties.py", "from agent import starts"),
        ("imports", "agent/starts.py", "import agent.reward"),
        ("imports", "agent/a.py", "import cloudpickle"),
        ("pickle", "agent/a.py", "np.load(path, allow_pickle=True)"),
        ("pickle", "agent/a.py", "np.load(path, allow_pickle=flag)"),
        ("pickle", "agent/a.py", "torch.load(path)"),
        ("algorithm names", "agent/a.py", "if cfg.algo == 'cmil': pass"),
        ("algorithm names", "agent/a.py", "x = 1 if 'cmil' != config['algo'] else 2"),
        ("algorithm names", "agent/a.py", "if cfg.algo.name in ('cmil', 'vmail'): pass"),
        ("algorithm names", "agent/a.py", "if 'official' in cfg.algo: pass"),
        ("algorithm names", "agent/a.py", "if str(algorithm).lower() == 'cmil': pass"),
        ("algorithm names", "agent/a.py", "if algo.startswith('bc'): pass"),
        ("algorithm names", "agent/a.py", "match cfg.algo:\n    case 'cmil': pass"),
    ],
)
def test_rule_finds(rule: str, path: str, source: str) -> None:
    assert RULES[rule](ast.parse(source), Path(path))


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        ("imports", "envs/a.py", "import mujoco\nimport numpy as np\nfrom . import rendering"),
        ("imports", "demos/formats/a.py", "from envs.episode import Episode\nfrom ..dataset import load"),
        ("imports", "models/a.py", "import math\nimport torch\nfrom einops import rearrange\nfrom models import nets"),
        (
            "imports",
            "agent/reward/a.py",
            "from . import maps\nfrom agent.reward import maps\nfrom models import nets",
        ),
        ("imports", "agent/build.py", "from agent import penalties, starts\nfrom agent.policy import bc"),
        ("imports", "benchmark/a.py", "from agent.train import run"),
        ("pickle", "agent/a.py", "np.load(path, allow_pickle=False)\ntorch.load(path, weights_only=True)"),
        (
            "algorithm names",
            "agent/a.py",
            "if cfg.algo not in presets: pass\nif 'algo' in cfg: pass\nif key == 'algo': pass",
        ),
    ],
)
def test_rule_allows(rule: str, path: str, source: str) -> None:
    assert RULES[rule](ast.parse(source), Path(path)) == []
