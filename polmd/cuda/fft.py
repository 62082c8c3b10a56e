"""Transforms of meshes on a GPU: cuFFT through CuPy. In the simulator SciPy's, on the host."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from polmd.kernels.cuda.compile import SIMULATED, Queue


def unavailable() -> str | None:
    """Why there are no transforms here, with what to do; None when there are."""
    if SIMULATED or importlib.util.find_spec("cupy") is not None:
        return None
    return "the mesh needs cuFFT through CuPy, which is not installed: pip install 'polmd[cuda]'"


class Transforms:
    """Real transforms of meshes of one shape. A spectrum is an array (nx·ny·(nz/2 + 1), 2), real and imaginary parts.

    Parameters
    ----------
    queue : in whose order they run
    shape : mesh points along each axis
    """

    def __init__(self, queue: Queue, shape: tuple[int, int, int]) -> None:
        self._queue, self._shape = queue, shape
        self._modes = shape[0], shape[1], shape[2] // 2 + 1

    def forward(self, mesh: Any, spectrum: Any) -> None:
        """Mesh to spectrum, without factor."""
        self._queue.call(lambda: self._run(lambda fft, a: self._pairs(fft.rfftn(a)), mesh, spectrum))

    def backward(self, spectrum: Any, mesh: Any) -> None:
        """Spectrum to mesh, over the number of points."""

        def transform(fft: Any, a: Any) -> Any:
            kind = np.complex64 if a.dtype == np.float32 else np.complex128
            return fft.irfftn(a.view(kind).reshape(self._modes), s=self._shape)

        self._queue.call(lambda: self._run(transform, spectrum, mesh))

    @staticmethod
    def _pairs(modes: Any) -> Any:
        kind = np.float32 if modes.dtype == np.complex64 else np.float64
        return modes.reshape(-1).view(kind).reshape(-1, 2)

    def _run(self, transform: Any, source: Any, target: Any) -> None:
        if SIMULATED:
            from scipy import fft

            target.copy_to_device(np.ascontiguousarray(transform(fft, source.copy_to_host()), target.dtype))
            return
        import cupy

        with cupy.cuda.ExternalStream(int(self._queue.stream)):
            cupy.asarray(target)[...] = transform(cupy.fft, cupy.asarray(source))
