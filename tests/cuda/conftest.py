"""Tests of the GPU kernels in Numba's simulator: tests/test_cuda.py runs them in a process that has it switched on."""

import os
import sys
from pathlib import Path

collect_ignore_glob = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["test_*.py"]
sys.setswitchinterval(1e-5)  # threads of the simulator wait for each other all the time: six times faster
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))  # cases shared with the CPU's tests
