"""GPUs without a GPU: the kernels in Numba's simulator, and what the compiler makes of them for sm_80 and sm_90."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from polmd.kernels.scalar.philox import normal_pair, philox
from typer.testing import CliRunner

from polmd import MultipolePotential, cli, device
from polmd.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
HAVE_NUMBA_CUDA = importlib.util.find_spec("numba_cuda") is not None
needs_numba_cuda = pytest.mark.skipif(
    not HAVE_NUMBA_CUDA, reason="numba-cuda is not installed: pip install 'polmd[cuda]'"
)


@needs_numba_cuda
def test_every_kernel_in_the_simulator() -> None:
    """Runs tests/cuda in two processes with the simulator switched on, which is decided when Numba is imported."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]
    files = sorted(map(str, (ROOT / "tests" / "cuda").glob("test_*.py")))
    parts = [[f for f in files if f.endswith("dynamics.py")], [f for f in files if not f.endswith("dynamics.py")]]

    def run(part: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *part], env=environment, cwd=ROOT, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(run, parts):
            assert done.returncode == 0, done.stdout + done.stderr
            assert " passed" in done.stdout and " skipped" not in done.stdout, done.stdout


@needs_numba_cuda
def test_no_kernel_spills_or_falls_under_its_occupancy_and_float32_stays_float32() -> None:
    from polmd.cuda.report import ARCHITECTURES, PRECISIONS, reports

    cases = [(precision, architecture) for architecture in ARCHITECTURES for precision in PRECISIONS]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = [row for rows in pool.map(reports, *zip(*cases, strict=True)) for row in rows]
    names = {row.kernel for row in found}
    assert {
        "network.forward",
        "network.reverse",
        "kspace.structure_factor",
        "kspace.fields",
        "pairs.all_pairs",
    } <= names
    assert len(found) >= len(cases) * 10
    problems = [problem for row in found for problem in row.problems()]
    assert not problems, "\n".join(problems)


@needs_numba_cuda
def test_report_sees_spills_occupancy_and_float64() -> None:
    """A kernel that is wrong in every way."""
    from numba import cuda, types
    from polmd.kernels.cuda.compile import Kernel, array, report

    def bad(x, out):
        i = cuda.grid(1)
        y = np.float64(x[i])
        out[i] = y * y * y  # one product alone would be made in float32
        out[i + 1] = y + np.float64(x[i + 1]) + np.float64(x[i + 2])

    kinds = (array(types.float32), array(types.float32))
    row = report(Kernel(bad, kinds, np.dtype(np.float32), 32, shared=40 << 10, occupancy=0.5), (8, 0))
    assert row.double == {"mul": 2} and row.additions == 2
    assert row.occupancy == pytest.approx(4 / 64) and row.shared == 40 << 10
    assert len(row.problems()) == 3


def test_philox_known_answers() -> None:
    """Of Random123 (kat_vectors): counter and key of zeros, of ones, of digits of π."""
    ones = 0xFFFFFFFF
    known = {
        (0, 0, 0, 0, 0, 0): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (ones,) * 6: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): (
            0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1,
        ),
    }  # fmt: skip
    for arguments, words in known.items():
        assert philox(*arguments) == words


def test_noise_is_normal() -> None:
    words = [philox(i, 7, 0, 0, 123, 456) for i in range(20000)]
    x = np.array([normal_pair(a, b) + normal_pair(c, d) for a, b, c, d in words])
    n = x.size
    assert abs(x.mean()) < 4 / np.sqrt(n) and abs(x.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * np.sqrt(96 / n)
    correlations = np.corrcoef(np.vstack([x.T, np.roll(x, 1, axis=0).T]))
    assert np.abs(correlations - np.eye(8)).max() < 4 / np.sqrt(len(x))


@pytest.mark.skipif(device.unavailable("cuda") is None, reason="there is a GPU")
def test_without_a_gpu_it_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r'device = "cuda": .*pip install \'polmd\[cuda\]\''):
        MultipolePotential("water", device="cuda")
    assert MultipolePotential("water", device="auto").device == "cpu"
    with pytest.raises(InputError, match="'cpu', 'cuda', 'auto'"):
        MultipolePotential("water", device="tpu")
    output = CliRunner().invoke(cli.app, ["info"]).output
    assert "cuda: not available: " in output and 'model.device = "auto" stands for: cpu' in output
    assert "polmd: " in output and "numba: " in output and "threads" in output


def test_roofline_counts_grow_as_they_should() -> None:
    from polmd.bench.roofline import counts, water

    small, large = (counts(water(n), 4) for n in (12288, 98304))
    for a, b in zip(small, large, strict=True):
        ratio = b.operations / a.operations
        assert ratio == pytest.approx(64 if a.kernel.startswith("kspace") else 8, rel=0.01)
    double = counts(water(12288), 8)
    for a, b in zip(small, double, strict=True):
        assert b.bytes >= a.bytes and b.floor("H100", True) >= a.floor("H100", False) > 0
