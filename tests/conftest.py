"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material that is not part of the project; its tests skip without it."""
    path = Path(os.environ.get("POLMD_SHARED", ROOT.parent / "shared"))
    if not (path / "vectors").is_dir():
        pytest.skip(f"reference material is not at {path} (set POLMD_SHARED)")
    return path


@pytest.fixture(scope="session")
def data() -> Path:
    """Small reference values that come with the tests (tests/data/README.md says where from)."""
    return Path(__file__).resolve().parent / "data"
