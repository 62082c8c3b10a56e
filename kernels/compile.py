"""How kernels are compiled: one decorator for drivers, one for the scalar physics, one cache directory.

Numba's disk cache looks only at the file of the cached function, not at the functions it calls in other files. The
cache directory is therefore named by a hash of every source file that is compiled (all but ``reference``), Numba's
version and the CPU.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numba
from numba.core import config

#: LLVM may reorder sums (needed to vectorise them) and fuse multiply-add; NaN and infinity stay exact.
REASSOCIATE = frozenset({"reassoc", "contract", "nsz"})


@cache
def cache_directory() -> Path | None:
    """Where compiled kernels are kept, or None when nothing is writable (then they are compiled at every start).

    ``POLMD_CACHE_DIR`` overrides the default, ``$XDG_CACHE_HOME/polmd`` or ``~/.cache/polmd``.
    """
    digest = hashlib.sha256(f"{numba.__version__} {_cpu()}".encode())
    here = Path(__file__).resolve().parent
    for path in sorted(p for p in here.rglob("*.py") if "reference" not in p.relative_to(here).parts):
        digest.update(str(path.relative_to(here)).encode())
        digest.update(path.read_bytes())
    candidates = [os.environ.get("POLMD_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"), os.path.expanduser("~/.cache")]
    roots = [Path(candidates[0])] if candidates[0] else [Path(p) / "polmd" for p in candidates[1:] if p]
    for root in roots:
        path = root / f"kernels-{digest.hexdigest()[:16]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                return path
        except OSError:
            continue
    warnings.warn(
        f"no writable cache directory among {', '.join(map(str, roots))}: kernels are compiled at every start; "
        "set POLMD_CACHE_DIR to a writable directory",
        stacklevel=2,
    )
    return None


def _cpu() -> str:
    from llvmlite import binding

    return f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"


def kernel(*, parallel: bool = False, fastmath: frozenset[str] = frozenset()) -> Callable[[Callable], Any]:
    """Compile a driver: arrays in, arrays out, cached on disk, GIL released, IEEE division."""

    def decorate(function: Callable) -> Any:
        directory = cache_directory()
        before = config.CACHE_DIR
        try:
            if directory is not None:
                config.CACHE_DIR = str(directory)
            return numba.njit(
                function,
                parallel=parallel,
                fastmath=set(fastmath),
                error_model="numpy",
                nogil=True,
                cache=directory is not None,
            )
        finally:
            config.CACHE_DIR = before

    return decorate


def inline(function: Callable, fastmath: frozenset[str] = frozenset()) -> Any:
    """Compile a helper that is always inlined into the drivers that call it."""
    return numba.njit(function, error_model="numpy", nogil=True, forceinline=True, fastmath=set(fastmath))


def compile_scalars(
    module: ModuleType, fastmath: frozenset[str] = frozenset(), compiled: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Compile every function of a ``kernels.scalar`` module, calls among them included.

    ``compiled`` gives the compiled versions of functions that the module imports from another scalar module.
    """
    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }
    namespace = {**vars(module), **(compiled or {})}
    for name, function in plain.items():  # in order of definition: a function may call those above it
        rebound = FunctionType(function.__code__, namespace, name, function.__defaults__, function.__closure__)
        rebound.__doc__ = function.__doc__
        namespace[name] = inline(rebound, fastmath)
    return {name: namespace[name] for name in plain}
