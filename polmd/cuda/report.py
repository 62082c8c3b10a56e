"""What the compiler makes of every kernel, without a device: registers, spills, shared memory, occupancy."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polmd.electrostatics.mesh import ORDER
from polmd.errors import InputError
from polmd.kernels.cuda import descriptor, integrate, kspace, mesh, moments, neighbors, network, pairs, response
from polmd.kernels.cuda.compile import Kernel, Report, assembler, report
from polmd.model.file import load_model
from polmd.model.network import pack
from polmd.output.files import writing

ARCHITECTURES = ((8, 0), (9, 0))
PRECISIONS = ("float32", "float64")
_PAIRS = ((10, "permanent"), (13, "permanent"), (13, "both"), (13, "induced"))


def kernels(precision: str, model: str = "water") -> list[Kernel]:
    """Every kernel that a step of a model can launch, in a precision; those of float64 alone are with "float64"."""
    dtype, loaded = np.dtype(precision), load_model(model)
    architecture = loaded.header.architecture
    spec = network.spec_of(pack(loaded, dtype), architecture.max_l, architecture.max_nu)
    found = [
        descriptor.find_edges(spec.nz, loaded.cutoff, 96, dtype),
        network.forward(spec, dtype),
        network.reverse(spec, dtype),
        moments.pack_fractions(dtype),
        moments.pack_sources(dtype),
        moments.respond(dtype),
        kspace.structure_factor(2, dtype),
        kspace.structure_factor(1, dtype),
        *(kspace.fields(columns, both, dtype) for columns, both in ((10, False), (13, False), (13, True))),
        *(pairs.all_pairs(columns, which, dtype) for columns, which in _PAIRS),
        response.edge_charges(dtype),
        *(mesh.spread(ORDER, rank, dtype) for rank in (1, 2)),
        *(mesh.convolve(both, dtype) for both in (False, True)),
        *(mesh.interpolate(ORDER, columns, dtype) for columns in (10, 13)),
        mesh.gather_modes(dtype),
        integrate.gather_forces(dtype),
    ]
    if dtype.itemsize == 8:
        found += [
            neighbors.check(),
            neighbors.sort_atoms(),
            neighbors.order_atoms(),
            neighbors.find_pairs(),
            neighbors.find_mirrors(),
            mesh.clear(),
            mesh.sort_atoms(ORDER),
            mesh.order_atoms(),
            moments.finish(),
            moments.sum_columns(),
            kspace.strain_sums(),
            integrate.kick_drift(),
            integrate.kick_drift_noise(),
            integrate.ornstein_uhlenbeck(),
            integrate.kick(),
        ]
    return found


def reports(precision: str, architecture: tuple[int, int]) -> list[Report]:
    """Compile all of them for an architecture."""
    return [report(kernel, architecture) for kernel in kernels(precision)]


def write_report(path: Path) -> Iterator[str]:
    """Compile everything and write a table as CSV; a line for every kernel."""
    if assembler() is None:
        raise InputError("ptxas is not there: pip install 'polmd[cuda]'")
    with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            "kernel precision architecture block registers spills_B local_B shared_B occupancy stated float64 "
            "float64_sums".split()
        )
        for architecture in ARCHITECTURES:
            for precision in PRECISIONS:
                for kernel in kernels(precision):
                    r = report(kernel, architecture)
                    double = " ".join(f"{name}:{count}" for name, count in sorted(r.double.items()))
                    name = f"sm_{architecture[0]}{architecture[1]}"
                    writer.writerow(
                        [
                            r.kernel, r.precision, name, r.block, r.registers, r.spills, r.local, r.shared,
                            f"{r.occupancy:.3f}", r.stated, double, r.sums if r.additions else "",
                        ]
                    )  # fmt: skip
                    yield (
                        f"{r.kernel:28} {r.precision:8} {name} {r.block:4} threads {r.registers:4} registers "
                        f"{r.spills:4} B spilled {r.local:4} B local {r.shared:6} B shared, occupancy {r.occupancy:.2f} "
                        f"(stated {r.stated:.2f}) {double}"
                    ).rstrip()
