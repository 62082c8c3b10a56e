"""The cache of compiled kernels notices every edit, and its absence is not fatal."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polmd.kernels

_DRIVER = """
from polmd.kernels.compile import compile_scalars, kernel
from polmd.kernels.scalar import tiny

_tiny = compile_scalars(tiny)
twice = _tiny["twice"]


@kernel()
def drive(x):
    return twice(x)
"""
_SCALAR = """
def once(x):
    return x * 1.0


def twice(x):
    return once(x) + once(x)
"""


def _result(package: Path, cache: Path) -> tuple[str, str]:
    code = "from polmd.kernels.cpu.tiny import drive; print(drive(3.0), drive.stats.cache_hits and True)"
    environment = {**os.environ, "PYTHONPATH": str(package), "POLMD_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=package)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def _copy(tmp_path: Path) -> Path:
    """A package polmd with the real compile.py and a two-line kernel."""
    package = tmp_path / "copy"
    kernels = package / "polmd" / "kernels"
    for folder in (package / "polmd", kernels, kernels / "cpu", kernels / "scalar"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    shutil.copy(Path(polmd.kernels.__file__).parent / "compile.py", kernels)
    (kernels / "scalar" / "tiny.py").write_text(_SCALAR)
    (kernels / "cpu" / "tiny.py").write_text(_DRIVER)
    return package


def test_an_edited_scalar_function_changes_the_result(tmp_path: Path) -> None:
    package, cache = _copy(tmp_path), tmp_path / "cache"
    assert _result(package, cache)[0].startswith("6.0")
    assert len(list(cache.iterdir())) == 1
    assert len(list(cache.rglob("*.nbi"))) == 1
    assert _result(package, cache)[0].startswith("6.0") and len(list(cache.rglob("*.nbi"))) == 1
    scalar = package / "polmd" / "kernels" / "scalar" / "tiny.py"
    scalar.write_text(_SCALAR.replace("1.0", "5.0"))
    assert _result(package, cache)[0].startswith("30.0")
    assert len(list(cache.iterdir())) == 2


def test_unwritable_cache_warns_and_runs(tmp_path: Path) -> None:
    package = _copy(tmp_path)
    (tmp_path / "file").write_text("in the way")
    out, err = _result(package, tmp_path / "file")
    assert out.startswith("6.0") and "no writable cache directory" in err
