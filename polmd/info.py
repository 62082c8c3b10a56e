"""``polmd info``: versions, processor, devices."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from polmd import device

_PACKAGES = ("polmd", "numba", "numba-cuda", "cuda-bindings", "nvidia-cuda-nvcc-cu12", "numpy", "scipy", "h5py", "ase")


def lines() -> Iterator[str]:
    """Lines of the report."""
    import numba

    for package in _PACKAGES:
        try:
            number = version(package)
        except PackageNotFoundError:
            number = "not installed"
        yield f"{package}: {number}"
    yield f"python: {platform.python_version()} on {platform.platform()}"
    yield f"cpu: {device.describe('cpu')}, {numba.get_num_threads()} threads"
    reason = device.unavailable("cuda")
    if reason is not None:
        yield f"cuda: not available: {reason}"
    else:
        from polmd.cuda.info import devices

        yield from devices()
    yield f'model.device = "auto" stands for: {device.choose("auto")}'
