"""Medians after warm-up, and where the time of a step goes."""

from __future__ import annotations

import importlib
import pkgutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Seconds per call: median and fastest of ``repeats``."""

    median: float
    fastest: float
    repeats: int


class NotHere(Exception):
    """A peer cannot be measured; the message says why."""


class Measured(NamedTuple):
    """One setting of a peer; without timing the setting says why there is none."""

    settings: str
    threads: int
    timing: Timing | None


def measure(call: Callable[[], object], seconds: float, *, warm_up: int = 3, least: int = 5) -> Timing:
    """Call again and again for ``seconds``, at least ``least`` times, after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        call()
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while len(spent) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return Timing(statistics.median(spent), min(spent), len(spent))


class KernelTimes:
    """Seconds spent in every driver, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, driver: Callable[..., Any]) -> Callable[..., Any]:
        """The driver with a clock around it."""

        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return driver(*args)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return call


@contextmanager
def kernel_clock() -> Iterator[KernelTimes]:
    """Time in every driver of polmd.kernels.cpu while the context lasts; what Numba needs to get into a driver counts as the
    driver's."""
    from numba.core.registry import CPUDispatcher

    import polmd.kernels.cpu as package

    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{info.name}")
    times = KernelTimes()
    replaced: list[tuple[Any, str, Any]] = []
    for module in [m for name, m in sys.modules.items() if name.startswith("polmd.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, CPUDispatcher) and value.targetoptions.get("nogil") and value.nopython_signatures:
                stage = f"{value.py_func.__module__.rpartition('.')[2]}.{value.py_func.__name__}"
                setattr(module, name, times.timed(stage, value))
                replaced.append((module, name, value))
    try:
        yield times
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
