"""Named peers: other programs that do the same work. None is a dependency; one that is not there is left out with a note.

A peer takes a case, the atoms and how long to measure, and gives (its settings, threads, seconds per call) of every
setting that it was tried with.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from polmd.bench import electrostatics_peers
from polmd.bench.cases import Case, model_path
from polmd.bench.timing import Measured, NotHere, Timing, measure
from polmd.system import System


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise NotHere(f"{package} is not installed") from None


def _vesin(case: Case, system: System) -> Iterator[Measured]:
    from vesin import NeighborList

    for threads in case.threads:
        calculator = NeighborList(cutoff=case.cutoff_A, full_list=True, n_threads=threads)
        for copy in (True, False):

            def call(calculator: object = calculator, copy: bool = copy) -> object:
                return calculator.compute(  # type: ignore[attr-defined]
                    points=system.positions, box=system.cell, periodic=True, quantities="ijS", copy=copy
                )

            yield Measured("ijS" if copy else "ijS, views", threads, measure(call, case.seconds))


def _matscipy(case: Case, system: System) -> Iterator[Measured]:
    from matscipy.neighbours import neighbour_list

    atoms = system.to_ase()
    yield Measured("ijS", 1, measure(lambda: neighbour_list("ijS", atoms, case.cutoff_A), case.seconds))


def _matscipy_neighbours(case: Case, system: System) -> Iterator[Measured]:
    from matscipy_neighbours import neighbour_list

    def call() -> object:
        return neighbour_list("ijS", cutoff=case.cutoff_A, positions=system.positions, cell=system.cell, pbc=system.pbc)

    yield Measured("ijS", max(case.threads), measure(call, case.seconds))


def _nvalchemi(case: Case, system: System) -> Iterator[Measured]:
    import torch
    from nvalchemiops.torch.neighbors import neighbor_list

    positions, cell = torch.as_tensor(system.positions), torch.as_tensor(system.cell)[None]
    pbc = torch.as_tensor(system.pbc)[None]

    def call() -> object:
        return neighbor_list(positions, case.cutoff_A, cell, pbc, method="cell_list")

    yield Measured("matrix", max(case.threads), measure(call, case.seconds))


def _torch_reference(case: Case, system: System) -> Iterator[Measured]:
    """The PyTorch statement of the model, its best of every number of threads and both precisions."""
    from ase.io import write

    shared = Path(os.environ.get("POLMD_SHARED", "../shared"))
    script = shared / "reference" / "torch_reference.py"
    weights = (
        shared / "models" / "water" / "weights.npz" if case.model == "water" else Path(model_path(case.model) or "")
    )
    for file in (script, weights):
        if not file.is_file():
            raise NotHere(f"{file} is not there (POLMD_SHARED names the folder)")
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "atoms.xyz"
        write(frames, system.to_ase())
        for threads in case.threads:
            for dtype in ("float64", "float32"):
                command = [sys.executable, str(script), "time", str(weights), str(frames)]
                command += ["--threads", str(threads), "--dtype", dtype]
                done = subprocess.run(command, capture_output=True, text=True)
                found = re.search(r"in ([0-9.]+) ms", done.stdout)
                if found is None:
                    raise NotHere(f"torch_reference.py failed: {done.stderr.strip().splitlines()[-1:]}")
                yield Measured(dtype, threads, Timing(1e-3 * float(found[1]), np.nan, 5))


#: name → (package whose version is reported, what is measured)
PEERS: dict[str, tuple[str, Callable[[Case, System], Iterator[Measured]]]] = {
    "vesin": ("vesin", _vesin),
    "matscipy": ("matscipy", _matscipy),
    "matscipy_neighbours": ("matscipy-neighbours", _matscipy_neighbours),
    "nvalchemi-toolkit-ops": ("nvalchemi-toolkit-ops", _nvalchemi),
    "torch_reference": ("torch", _torch_reference),
    "openmm-amoeba": ("openmm", electrostatics_peers.openmm_amoeba),
    "openmm-charges": ("openmm", electrostatics_peers.openmm_charges),
    "finufft": ("finufft", electrostatics_peers.finufft),
}


def measure_peer(name: str, case: Case, system: System) -> tuple[str, list[Measured]]:
    """(version, measured settings) of a peer; raises NotHere."""
    if name not in PEERS:
        raise NotHere(f"no such peer; known: {', '.join(PEERS)}")
    package, run = PEERS[name]
    found = _version(package)
    try:
        return found, list(run(case, system))
    except ImportError as error:
        raise NotHere(f"{package} cannot be imported: {error}") from None
