"""How kernels are compiled: one decorator for drivers, one for the scalar physics, one cache directory.

Numba's disk cache looks only at the file of the cached function, not at the functions it calls in other files. The
cache directory is therefore named by a hash of every source file that is compiled for the CPU, Numba's
version and the CPU.

Drivers are compiled in a child process and then loaded from the cache. A process that compiles holds several copies of
a helper, optimised to different degrees, and binds calls to whichever came first; one that loads holds only the copies
in the cached objects. The two differ in the last bit, and a resumed run must not differ from an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import IO, Any

import numba
from numba.core import config

# Threads: OpenMP starts a parallel loop in 1 µs, where Numba's own queue takes 50 and TBB is not always there. Its threads
# wait for the next loop by spinning, by default for 6 ms, which stalls every loop when cores are shared with other
# processes; 0.4 ms bridges the serial parts of a step. libgomp reads this when it is loaded, by the first parallel loop.
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

#: LLVM may reorder sums (needed to vectorise them) and fuse multiply-add; NaN and infinity stay exact.
REASSOCIATE = frozenset({"reassoc", "contract", "nsz"})


@cache
def cache_directory() -> Path | None:
    """Where compiled kernels are kept, or None when nothing is writable (then they are compiled at every start).

    ``POLMD_CACHE_DIR`` overrides the default, ``$XDG_CACHE_HOME/polmd`` or ``~/.cache/polmd``.
    """
    digest = hashlib.sha256(f"{numba.__version__} {_cpu()}".encode())
    here = Path(__file__).resolve().parent
    for path in sorted(p for p in here.rglob("*.py") if not {"reference", "cuda"} & set(p.relative_to(here).parts)):
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
            dispatcher = numba.njit(
                function,
                parallel=parallel,
                fastmath=set(fastmath),
                error_model="numpy",
                nogil=True,
                cache=directory is not None,
            )
        finally:
            config.CACHE_DIR = before
        if directory is not None and _IN_WORKER not in os.environ:
            dispatcher._cache = _CompiledElsewhere(dispatcher._cache, function)
        return dispatcher

    return decorate


_IN_WORKER = "POLMD_COMPILE_WORKER"


class _CompiledElsewhere:
    """A dispatcher's disk cache that, asked for what it does not have, lets the worker compile it first."""

    def __init__(self, cache: Any, function: Callable) -> None:
        self._cache = cache
        self._function = function

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        found = self._cache.load_overload(signature, context)
        if found is None and _worker.compile(self._function, signature):
            found = self._cache.load_overload(signature, context)
        return found


class _Worker:
    """A child process that compiles drivers into the cache, started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def compile(self, function: Callable, signature: Any) -> bool:
        """True when the compiled driver is in the cache; otherwise the caller compiles, with a warning or the error."""
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                assert self._process is not None
                requests, answers = self._process.stdin, self._process.stdout
                assert requests is not None and answers is not None
                pickle.dump((function.__module__, function.__name__, signature), requests)
                requests.flush()
                problem = pickle.load(answers)
            except (OSError, EOFError, pickle.PickleError) as error:
                problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            warnings.warn(
                f"kernel {function.__name__} could not be compiled in a child process and is compiled in this one: results "
                f"may differ in the last bit from those of later runs ({problem})",
                stacklevel=2,
            )
        return problem is None

    def _start(self) -> None:
        print(
            f"polmd: compiling kernels for this processor, once, about a minute; they are kept in {cache_directory()}",
            file=sys.stderr,
            flush=True,
        )
        environment = {**os.environ, _IN_WORKER: "1", "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which finishes its step
        )


_worker = _Worker()


def serve() -> None:
    """The worker's loop: compile what is asked for on standard input until it closes."""
    from importlib import import_module

    requests: IO[bytes] = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # nothing that a compiler prints may mix with the answers
        while True:
            try:
                module, name, signature = pickle.load(requests)
            except EOFError:
                return
            try:
                getattr(import_module(module), name).compile(signature)
                problem = None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            pickle.dump(problem, answers)
            answers.flush()


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
