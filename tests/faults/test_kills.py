"""Killed processes (rows 31 and 32): a bounded part of what ``kills.py`` does."""

import subprocess
import sys
from pathlib import Path

import pytest


def _kills(*arguments: object) -> str:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_at_random_times() -> None:
    assert "12 kills at random times" in _kills("random", 12)


def test_at_calls_that_write() -> None:
    assert "calls that write" in _kills("calls", 37)


def test_while_exporting() -> None:
    assert "export: 12 kills" in _kills("export")


@pytest.mark.slow
def test_five_hundred_times() -> None:
    print(_kills("random", 500, 2))


@pytest.mark.slow
def test_at_every_call_that_writes() -> None:
    print(_kills("calls", 1))
