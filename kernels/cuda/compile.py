"""How kernels are compiled for GPUs: scalar functions in one precision, kernels with their types, launches, machine code.

In a kernel of float32 every literal is a float32: constants of the code of a function are replaced by those of the
precision before Numba sees it, so that nothing is promoted to float64 by accident. What is float64 there is so by name.

Without a GPU kernels run in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``, every thread a Python thread), and are compiled
to machine code by :func:`report`, which needs ``numba-cuda[cu12]`` and no device.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, types
from numba.core import config

#: Python threads in place of a GPU.
SIMULATED = bool(config.ENABLE_CUDASIM)

#: Most shared memory of a block without asking the driver for more, bytes.
SHARED_MEMORY = 48 << 10


def unavailable() -> str | None:
    """Why kernels cannot run here, with what to do; None when they can."""
    if SIMULATED:
        return None
    try:
        import numba_cuda  # noqa: F401
    except ImportError:
        return "numba-cuda is not installed: pip install 'polmd[cuda]'"
    try:
        if cuda.is_available():
            return None
        problem = "no GPU is visible"
        cuda.current_context()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip(" :")]
        problem = lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__
    return (
        f"there is no usable NVIDIA GPU ({problem}); install the NVIDIA driver (nvidia-smi lists what it sees) and "
        "pip install 'polmd[cuda]', or take device = \"cpu\""
    )


# ---- scalar functions in one precision ------------------------------------------------------------------------------


def typed(function: Callable, dtype: np.dtype, namespace: dict[str, Any] | None = None) -> Any:
    """The function with its float constants in ``dtype``, and its globals those of ``namespace``."""
    kind, code = np.dtype(dtype).type, function.__code__
    constants = tuple(kind(c) if type(c) is float else c for c in code.co_consts)
    rebound = FunctionType(
        code.replace(co_consts=constants),
        function.__globals__ if namespace is None else namespace,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__doc__, rebound.__module__, rebound.__qualname__ = function.__doc__, function.__module__, function.__name__
    return rebound


def device(function: Callable, dtype: np.dtype, namespace: dict[str, Any] | None = None) -> Any:
    """Compile a function that kernels of one precision call. In the simulator it stays a plain function."""
    rebound = typed(function, dtype, namespace)
    return rebound if SIMULATED else cuda.jit(device=True, forceinline=True)(rebound)


def _primitives(dtype: np.dtype) -> dict[str, Any]:
    magic = np.dtype(dtype).type(1.5 * 2.0 ** (23 if np.dtype(dtype).itemsize == 4 else 52))

    def square_root(x):
        return math.sqrt(x)

    def nearest(x):
        return (x + magic) - magic

    def below(x, limit, value, otherwise):
        return value if x < limit else otherwise

    def times_power_of_two(x, n):
        return math.ldexp(x, int(n)) if n == n else n  # NaN stays

    return {f.__name__: device(f, dtype) for f in (square_root, nearest, below, times_power_of_two)}


def compile_module(module: ModuleType, dtype: np.dtype, compiled: dict[str, Any]) -> dict[str, Any]:
    """Compile every function of a module that has nothing but scalar functions; ``compiled``: those that it imports."""
    kind = np.dtype(dtype).type
    namespace = {name: kind(v) if type(v) is float else v for name, v in vars(module).items()} | compiled
    own = [
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    ]
    for name, function in own:  # in order of definition: a function may call those above it
        namespace[name] = device(function, dtype, namespace)
    return {name: namespace[name] for name, _ in own}


@functools.cache
def scalars(dtype: np.dtype) -> SimpleNamespace:
    """The scalar physics of ``kernels.scalar`` in a precision."""
    from polmd.kernels.scalar import elementary, multipole, philox, radial, smearing, tensor

    found = _primitives(dtype)
    for module in (elementary, radial, tensor, multipole, smearing, philox):
        found |= compile_module(module, dtype, found)
    return SimpleNamespace(**found)


def real(dtype: np.dtype) -> Any:
    """Numba's type of a precision."""
    return types.float32 if np.dtype(dtype).itemsize == 4 else types.float64


def array(kind: Any, dimensions: int = 1) -> Any:
    """Numba's type of a C-contiguous array."""
    return types.Array(kind, dimensions, "C")


# ---- kernels --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Kernel:
    """A kernel for one precision.

    Attributes
    ----------
    function : takes arrays, returns nothing
    arguments : their Numba types
    dtype : precision of its literals
    block : threads of a block
    shared : bytes of shared memory that a launch asks for
    occupancy : least part of a processor's threads that registers and shared memory must leave room for (sm_80, sm_90)
    double : float64 instructions, beyond additions and conversions, that a kernel of float32 may have, and what they are
    sums : what a kernel of float32 adds up in float64; it may add nothing else there
    """

    function: Callable
    arguments: tuple[Any, ...]
    dtype: np.dtype
    block: int
    shared: int = 0
    occupancy: float = 0.25
    double: tuple[int, str] = (0, "")
    sums: str = ""
    _dispatcher: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.function = typed(self.function, self.dtype)

    @property
    def name(self) -> str:
        """module.function."""
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return np.dtype(self.dtype).name

    @property
    def signature(self) -> Any:
        """Numba's signature."""
        return types.void(*self.arguments)

    @property
    def dispatcher(self) -> Any:
        """What Numba makes of it."""
        if self._dispatcher is None:
            self._dispatcher = cuda.jit(self.signature)(self.function)
        return self._dispatcher


#: A kernel, its number of blocks and its arguments; or None, 0 and a function that the host calls.
_Launch = tuple[Kernel | None, int, tuple[Any, ...]]


class Queue:
    """Launches kernels in order and counts them.

    With :meth:`record` launches are kept in a list instead, which :meth:`replay` does again any number of times: all
    arguments are arrays that stay where they are, so that a step, list rebuild included, is always the same launches.
    On a device the list becomes a CUDA graph, launched as one.

    Attributes
    ----------
    launches : kernels launched so far
    """

    def __init__(self) -> None:
        self.launches = 0
        self.stream = cuda.stream()
        self._recording: list[_Launch] | None = None

    def launch(self, kernel: Kernel, grid: int, *arguments: Any) -> None:
        """Run a kernel with ``grid`` blocks."""
        if grid < 1:
            return
        if self._recording is not None:
            self._recording.append((kernel, grid, arguments))
            return
        kernel.dispatcher[grid, kernel.block, self.stream, kernel.shared](*arguments)
        self.launches += 1

    def call(self, function: Callable[[], None]) -> None:
        """Have the host do something between launches, such as start a transform of a library."""
        if self._recording is not None:
            self._recording.append((None, 0, (function,)))
        else:
            function()

    def record(self, step: Callable[[], None]) -> Recording:
        """What ``step`` launches, without launching it."""
        assert self._recording is None
        self._recording = []
        try:
            step()
            return Recording(self, self._recording)
        finally:
            self._recording = None

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        self.stream.synchronize()

    def profile(self, step: Callable[[], None], repeats: int) -> list[tuple[Kernel, float]]:
        """Median seconds of every launch of a step that may be repeated, each on its own, as the device's clock has it (in the
        simulator the host's)."""
        recording = self.record(step)
        launches = [(k, grid, arguments) for k, grid, arguments in recording.launches if k is not None]
        spent: list[list[float]] = [[] for _ in launches]
        for _ in range(repeats):
            for times, (kernel, grid, arguments) in zip(spent, launches, strict=True):
                begin, end, start = cuda.event(), cuda.event(), time.perf_counter()
                begin.record(self.stream)
                self.launch(kernel, grid, *arguments)
                end.record(self.stream)
                end.synchronize()
                times.append(time.perf_counter() - start if SIMULATED else 1e-3 * cuda.event_elapsed_time(begin, end))
        return [(k, statistics.median(t)) for (k, _, _), t in zip(launches, spent, strict=True)]


class Recording:
    """A fixed sequence of launches: replayed as a CUDA graph; one by one in the simulator, or where the host has calls of its
    own in between (the transforms of the mesh).

    Attributes
    ----------
    launches : kernel, number of blocks and arguments of each
    """

    def __init__(self, queue: Queue, launches: list[_Launch]) -> None:
        self._queue, self.launches = queue, launches
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self.launches)

    def replay(self) -> None:
        """Do the launches again."""
        if SIMULATED or any(kernel is None for kernel, _, _ in self.launches):
            for kernel, grid, arguments in self.launches:
                if kernel is None:
                    arguments[0]()
                else:
                    self._queue.launch(kernel, grid, *arguments)
            return
        if self._graph is None:
            self._graph = self._capture()
        _check(_driver().cuGraphLaunch(self._graph, int(self._queue.stream)))
        self._queue.launches += len(self.launches)

    def _capture(self) -> Any:
        """The launches as an executable graph."""
        driver, stream = _driver(), int(self._queue.stream)
        kernels = [(k, grid, arguments) for k, grid, arguments in self.launches if k is not None]
        for kernel, _, _ in kernels:
            _ = kernel.dispatcher  # compiled and loaded before the capture, which allows no other calls
        _check(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            for kernel, grid, arguments in kernels:
                kernel.dispatcher[grid, kernel.block, self._queue.stream, kernel.shared](*arguments)
        finally:
            graph = _check(driver.cuStreamEndCapture(stream))
        return _check(driver.cuGraphInstantiate(graph, 0))


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _check(result: tuple[Any, ...]) -> Any:
    """The value of a driver call, or its error as an exception."""
    code, *values = result
    if int(code) != 0:
        raise RuntimeError(f"CUDA driver: {code}")
    return values[0] if values else None


# ---- machine code without a device ----------------------------------------------------------------------------------

#: Registers, threads, blocks and bytes of shared memory of a multiprocessor, by architecture.
PROCESSORS = {(8, 0): (65536, 2048, 32, 164 << 10), (9, 0): (65536, 2048, 32, 228 << 10)}
#: Shared memory that the system takes of every block, bytes.
_RESERVED = 1 << 10


@dataclass(frozen=True)
class Report:
    """What ptxas makes of a kernel.

    Attributes
    ----------
    kernel, precision : which
    architecture : (8, 0) or (9, 0)
    block : threads
    registers : of a thread
    spills, local : bytes of a thread stored to and kept in local memory
    shared : bytes of a block
    occupancy, stated : part of a processor's threads that fit, and the least that the kernel states
    double : float64 instructions other than additions, conversions and moves, by name (kernels of float32 only)
    allowed : how many of these it may have
    additions : float64 additions and subtractions (kernels of float32 only)
    sums : what they are
    """

    kernel: str
    precision: str
    architecture: tuple[int, int]
    block: int
    registers: int
    spills: int
    local: int
    shared: int
    occupancy: float
    stated: float
    double: dict[str, int]
    allowed: int
    additions: int
    sums: str

    def problems(self) -> list[str]:
        """What is not as it should be."""
        where = f"{self.kernel} ({self.precision}, sm_{self.architecture[0]}{self.architecture[1]})"
        found = []
        if self.spills:
            found.append(f"{where} spills {self.spills} bytes")
        if self.occupancy < self.stated:
            found.append(f"{where}: occupancy {self.occupancy:.3f}, stated {self.stated:.3f}")
        if sum(self.double.values()) > self.allowed:
            found.append(f"{where}: float64 instructions {self.double}, allowed {self.allowed}")
        if self.additions and not self.sums:
            found.append(f"{where}: {self.additions} float64 additions in no named sum")
        return found


def occupancy(block: int, registers: int, shared: int, architecture: tuple[int, int]) -> float:
    """Part of a processor's threads that blocks of this kind can keep busy at a time."""
    total_registers, threads, blocks, memory = PROCESSORS[architecture]
    warps = -(-block // 32)
    by_registers = total_registers // (-(-registers * 32 // 256) * 256 * warps) if registers else blocks
    by_memory = memory // (-(-shared // 128) * 128 + _RESERVED)
    return min(blocks, threads // (32 * warps), by_registers, by_memory) * 32 * warps / threads


def ptx(kernel: Kernel, architecture: tuple[int, int]) -> str:
    """PTX of a kernel; needs no device."""
    with _pretend(architecture):
        text, _ = cuda.compile_ptx(kernel.function, kernel.signature, device=False, cc=architecture)
    return text


@contextmanager
def _pretend(architecture: tuple[int, int]) -> Iterator[None]:
    """Functions that a kernel calls are compiled for the current device: let that be one of this architecture."""
    from numba.cuda import dispatcher

    module: Any = dispatcher
    before = module.get_current_device
    module.get_current_device = lambda: SimpleNamespace(compute_capability=architecture)
    try:
        yield
    finally:
        module.get_current_device = before


def assembler() -> Path | None:
    """The ptxas that comes with ``numba-cuda[cu12]``, or None."""
    try:
        import nvidia.cuda_nvcc as package
    except ImportError:
        return None
    for place in package.__path__:
        path = Path(place) / "bin" / "ptxas"
        if path.exists():
            return path
    return None


_DOUBLE = re.compile(r"^\s+(?:@\S+\s+)?([a-z]+)(?:\.\w+)*\.f64\b[^\n]*$", re.MULTILINE)
#: What moves and converts float64 numbers, and what adds them.
_MOVES, _ADDITIONS = {"ld", "st", "mov", "cvt", "neg", "selp", "ldu"}, {"add", "sub"}


def double_instructions(text: str) -> tuple[dict[str, int], int]:
    """float64 instructions of a PTX text that are not moves, conversions or additions, counted by name; and additions."""
    names = _DOUBLE.findall(text)
    others = [name for name in names if name not in _MOVES | _ADDITIONS]
    return {name: others.count(name) for name in others}, sum(name in _ADDITIONS for name in names)


def report(kernel: Kernel, architecture: tuple[int, int]) -> Report:
    """Compile a kernel to machine code, without a device, and say what it needs."""
    text = ptx(kernel, architecture)
    path = assembler()
    if path is None:
        raise FileNotFoundError("ptxas is not there: pip install 'polmd[cuda]'")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text)
        command = [
            path,
            "-v",
            f"-arch=sm_{architecture[0]}{architecture[1]}",
            source,
            "-o",
            Path(folder) / "kernel.cubin",
        ]
        said = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stderr

    def number(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, said))

    registers = number(r"Used (\d+) registers")
    shared = number(r"(\d+) bytes smem") + kernel.shared
    single = np.dtype(kernel.dtype).itemsize == 4
    double, additions = double_instructions(text) if single else ({}, 0)
    return Report(
        kernel=kernel.name,
        precision=kernel.precision,
        architecture=architecture,
        block=kernel.block,
        registers=registers,
        spills=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        local=number(r"(\d+) bytes stack frame"),
        shared=shared,
        occupancy=occupancy(kernel.block, registers, shared, architecture),
        stated=kernel.occupancy,
        double=double,
        allowed=kernel.double[0],
        additions=additions,
        sums=kernel.sums or kernel.double[1],
    )
