"""Tests of the GPU kernels in Numba's simulator: tests/test_cuda.py runs them in a process that has it switched on."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = [] if SIMULATED else ["test_*.py"]
sys.setswitchinterval(1e-5)  # threads of the simulator wait for each other all the time: six times faster
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))  # cases shared with the CPU's tests

if SIMULATED:
    from numba.cuda.simulator import kernelapi
    from numba.np.numpy_support import as_dtype

    _dynamic = kernelapi.FakeCUDAShared.array
    _lock = threading.Lock()

    def _array(self: Any, shape: int | tuple[int, ...], dtype: Any, alignment: int | None = None) -> np.ndarray:
        """The simulator's shared arrays, made under a lock: it looks whether another thread has made an array, and makes it
        if not, in two steps, so that now and then threads of a block get arrays of their own. Arrays are told apart by the
        line of the call, as there."""
        if shape == 0:
            return _dynamic(self, shape, dtype, alignment)
        frame = sys._getframe(1)
        with _lock:
            line = frame.f_code.co_filename, frame.f_lineno
            if line not in self._allocations:
                self._allocations[line] = np.empty(shape, as_dtype(dtype))
            return self._allocations[line]

    kernelapi.FakeCUDAShared.array = _array
