"""Which device computes: the one place that knows what there is.

A backend is a name, the class of its potential, and why it cannot be used here; a new one is one entry of ``_BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from polmd.errors import InputError

if TYPE_CHECKING:
    from polmd.dynamics.integrators import Integrator
    from polmd.dynamics.state import Potential
    from polmd.potential import MultipolePotential

#: What ``device`` may be: a backend, or "auto", a GPU where one can be used, and else the CPU.
DEVICES = ("cpu", "cuda", "auto")


@dataclass(frozen=True)
class Backend:
    """A kind of device.

    Attributes
    ----------
    potential : module and name of the potential's class
    resident : module and name of the function that makes an integrator one of the device
    unavailable : why it cannot be used here and what to do about it, or None
    describe : name of the device for logs and tables
    """

    potential: tuple[str, str]
    resident: tuple[str, str] | None
    unavailable: Callable[[], str | None]
    describe: Callable[[], str]


def _cuda_unavailable() -> str | None:
    try:
        from polmd.kernels.cuda.compile import unavailable
    except ImportError as error:
        return f"Numba has no CUDA target here ({error}): pip install 'polmd[cuda]'"
    return unavailable()


def _cuda_name() -> str:
    from numba import cuda

    from polmd.kernels.cuda.compile import SIMULATED

    if SIMULATED:
        return "Numba's CUDA simulator"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def cpu_name() -> str:
    """Name of the processor and how many of its cores this process may use."""
    import os
    import platform
    from pathlib import Path

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    from llvmlite.binding import get_host_cpu_name

    return f"{name} ({get_host_cpu_name()}), {len(os.sched_getaffinity(0))} cores"


_BACKENDS = {
    "cpu": Backend(("polmd.potential", "MultipolePotential"), None, lambda: None, cpu_name),
    "cuda": Backend(
        ("polmd.cuda.potential", "CudaPotential"), ("polmd.cuda.dynamics", "resident"), _cuda_unavailable, _cuda_name
    ),
}


def choose(device: str, refuses: Callable[[type[MultipolePotential]], str | None] = lambda potential: None) -> str:
    """Name of the backend of ``device``. ``refuses``: why a potential cannot do what is wanted, or None.

    Raises InputError with the reason where the device cannot be used; "auto" takes the CPU there.
    """
    if device not in DEVICES:
        raise InputError(f"device = {device!r} is not available; choose from {', '.join(map(repr, DEVICES))}")
    name = "cuda" if device == "auto" else device
    reason = unavailable(name)
    if reason is None:
        reason = refuses(potential_class(name))
    if reason is None:
        return name
    if device == "auto":
        return "cpu"
    raise InputError(f'device = "{device}": {reason}')


def unavailable(name: str) -> str | None:
    """Why a backend cannot be used here and what to do, or None."""
    return _BACKENDS[name].unavailable()


def describe(name: str) -> str:
    """The device of a backend in words."""
    return _BACKENDS[name].describe()


def resident(name: str, integrator: Integrator, potential: Potential) -> tuple[Integrator, str]:
    """The integrator that runs on a backend, and what a log should say about it. Where the backend has none of this kind, or
    forces are not its potential's alone (a field), it is the same one: it moves the atoms on the host, with forces from the
    device."""
    place = _BACKENDS[name].resident
    if place is None:
        return integrator, ""
    found = integrator
    if isinstance(potential, potential_class(name)):
        found = getattr(import_module(place[0]), place[1])(integrator)
    if found is integrator:
        return (
            found,
            f"{name} computes the forces, atoms are moved on the host: positions and forces cross in every step",
        )
    return found, f"{name} does the whole step"


def potential_class(name: str) -> type[MultipolePotential]:
    """The potential of a backend."""
    module, attribute = _BACKENDS[name].potential
    found: type[MultipolePotential] = getattr(import_module(module), attribute)
    return found
