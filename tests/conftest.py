"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os

# Before numpy or torch are imported: several test processes may share the machine, and tiny tensors gain nothing from
# more threads, which wait for each other badly beside environment processes. MUJOCO_GL is left alone: envs.rendering
# chooses the backend.
THREADS = 1
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, str(THREADS))

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ROOT.parent / "shared" / "datasets"
NO_PICTURE = "no picture can be drawn here"  # how tests say why they are skipped


def pytest_sessionstart() -> None:
    """Where pictures are required, as in .ci/run, refuse to begin without them: their tests would only be skipped."""
    if os.environ.get("UNDERSTUDY_PICTURES") == "required":
        from envs.rendering import RenderingError, select_backend

        try:
            select_backend()
        except RenderingError as problem:
            pytest.exit(f"UNDERSTUDY_PICTURES=required, but {NO_PICTURE}: {problem}", returncode=1)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that pictures were left out, which a count of skipped tests does not."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    if untested := sum(NO_PICTURE in reason for reason in skipped):
        terminalreporter.write_line(f"{NO_PICTURE}: {untested} modules or tests of them were skipped (pytest -rs)")


@pytest.fixture(autouse=True)
def _few_torch_threads() -> None:
    """Limit torch's threads where a test module has imported it; never import it for a test that does not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder of public datasets, which is not part of the repository; the test is skipped without it."""
    if not DATASETS.is_dir():
        pytest.skip("public datasets not found: ../shared/datasets (relative to the repository) does not exist")
    return DATASETS


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A fresh, not yet existing run folder."""
    return tmp_path / "run"
