"""Tests of the GPU kernels in Numba's simulator: tests/test_cuda.py runs them in a process that has it switched on."""

import os
import sys
import threading
from pathlib import Path

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = [] if SIMULATED else ["test_*.py"]
sys.setswitchinterval(1e-5)  # threads of the simulator wait for each other all the time: six times faster
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))  # cases shared with the CPU's tests


def _one_array_for_all_threads() -> None:
    """The simulator looks for a shared array and then makes it: two threads at once get two arrays, now and then, and results
    are wrong. With a lock they get one (and without a traceback to find the caller, in half the time)."""
    from numba import types
    from numba.cuda.simulator import kernelapi
    from numba.np import numpy_support

    lock, before = threading.Lock(), kernelapi.FakeCUDAShared.array

    def array(self, shape, dtype, *options):
        if shape == 0 or options:
            return before(self, shape, dtype, *options)
        if isinstance(dtype, types.Type):
            dtype = numpy_support.as_dtype(dtype)
        frame = sys._getframe(1)
        place = frame.f_code.co_filename, frame.f_lineno
        with lock:
            if place not in self._allocations:
                self._allocations[place] = np.empty(shape, dtype)
            return self._allocations[place]

    kernelapi.FakeCUDAShared.array = array


if SIMULATED:
    _one_array_for_all_threads()
