"""Tests of pictures are never left out unsaid: .ci/run fails without OpenGL, `make test` tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import NO_PICTURE


def session(root: Path, **settings: str) -> tuple[int, str]:
    """Exit code and output of the tests of the toys and of the Kitchen's pictures, on a machine that draws none."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
    files = [str(root / "tests" / "envs" / f"test_{name}.py") for name in ("kitchen", "toy")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root, env=env | {"MUJOCO_GL": "off"} | settings, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_without_pictures_their_tests_are_skipped_and_the_summary_says_so(root: Path) -> None:
    code, said = session(root)
    assert code == 0 and f"{NO_PICTURE}: 1 modules or tests of them were skipped" in said


def test_where_pictures_are_required_nothing_begins_without_them(root: Path) -> None:
    code, said = session(root, UNDERSTUDY_PICTURES="required")
    assert code == 1 and f"UNDERSTUDY_PICTURES=required, but {NO_PICTURE}: MUJOCO_GL=off switches rendering off" in said
    assert "UNDERSTUDY_PICTURES=required make test" in (root / ".ci" / "run").read_text()
