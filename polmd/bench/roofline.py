"""How long a step can take at least on a GPU: bytes and operations of every kernel over what the device can do.

Counts are those of the algorithm as the kernels have it, from the sizes of the model and the system. Weights count once
(they stay in the cache); a sine with its cosine counts 35 operations, a logistic function 30; products of tensors and
their adjoints are counted from kernels/scalar. A multiplication and an addition are two operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

#: Memory (bytes/s), arithmetic in float32 and float64 (operations/s), as the maker states them.
DEVICES = {"H100": (3.35e12, 67e12, 34e12)}
_SINE, _LOGISTIC, _EDGE, _PRODUCTS, _PRODUCTS_ADJOINT = 35, 30, 60, 620, 1480
_PHASE, _FORM = _SINE + 8, 22


class Sizes(NamedTuple):
    """What the counts depend on.

    Attributes
    ----------
    atoms, edges, pairs : atoms, edges of an atom within the cutoff and within cutoff and skin
    waves : wave vectors of the half sphere
    nz, nr, nl, nc, nb, n_first, readouts, h0, h1, nh : of the model (kernels/layout.py)
    """

    atoms: int
    edges: float
    pairs: float
    waves: int
    nz: int = 2
    nr: int = 6
    nl: int = 20
    nc: int = 48
    nb: int = 6
    n_first: int = 72
    readouts: int = 2
    h0: int = 32
    h1: int = 16
    nh: int = 2


@dataclass(frozen=True)
class Count:
    """Bytes to and from memory and operations of one launch of a kernel."""

    kernel: str
    bytes: float
    operations: float

    def floor(self, device: str, double: bool) -> float:
        """Shortest time on a device, s."""
        memory, single_speed, double_speed = DEVICES[device]
        return max(self.bytes / memory, self.operations / (double_speed if double else single_speed))


def water(atoms: int, cutoff: float = 4.5, skin: float = 1.0, dl: float = 2.0, density: float = 0.1000) -> Sizes:
    """Liquid water with the bundled model: ``density`` atoms/Å³."""

    def within(radius: float) -> float:
        return 4.0 / 3.0 * math.pi * radius**3 * density

    volume = atoms / density
    return Sizes(atoms, within(cutoff), within(cutoff + skin), round(2.0 * math.pi / 3.0 * volume / dl**3))


def counts(s: Sizes, number: int) -> list[Count]:
    """Every kernel of a step with the list of the step before; ``number``: bytes of a number of the network (4 or 8)."""
    n, e, p, k, b = s.atoms, s.edges, s.pairs, s.waves, number
    rows, nf = s.nz * s.nr, s.nc * s.nb
    first, mix = 2.0 * nf * s.n_first, 2.0 * s.nl * s.nc * rows
    tables = e * (_EDGE + s.nr * (_SINE + 12))
    layers = 2.0 * s.readouts * s.h0 * s.h1 + _LOGISTIC * s.readouts * (s.h0 + s.h1)
    contract = 2.0 * 117 * s.nh * s.nc
    kept = b * (rows * s.nl + s.n_first + 12 * s.nh)
    weights = b * (s.nz * 4 * rows * s.nc + nf * s.n_first + s.readouts * s.h0 * s.h1 + 27 * s.nh * s.nc)
    forward = tables + 2.0 * e * s.nr * s.nl + mix + s.nc * (_PRODUCTS + 40) + contract + first + layers + 200.0 * s.nh
    reverse = (
        tables + 2.0 * layers + 400.0 * s.nh + first + 2.0 * mix + contract + s.nc * (_PRODUCTS_ADJOINT + 120)
        + e * (4.0 * s.nr * s.nl + 120)
    )  # fmt: skip
    fraction = 8 * 3
    found = [
        Count("integrate.kick_drift", n * 8.0 * 3 * 5, n * 12.0),
        Count("neighbors.check", n * 8.0 * 6, n * 8.0),
        Count("descriptor.edges", n * (p * 16 + p * 24 + e * 3 * b + p * 4), n * p * (30 + p)),
        Count("network.forward", n * (e * 3 * b + kept + 24 * 8) + weights, n * forward),
        Count("moments.pack_sources", n * (24 + fraction + 24 * 8 + 10 * b), n * 150.0),
        Count("kspace.structure_factor, M", n * (fraction + 10 * b) + k * 28.0, n * k * (_PHASE + _FORM + 8.0)),
        Count("kspace.fields, 10", n * (fraction + 10 * b + 80) + k * (12 + b + 16.0), n * k * (_PHASE + 8 + 23.0)),
        Count("moments.respond", n * 8.0 * (24 + 10 + 10 + 11 + 4 + 10), n * 250.0),
        Count("kspace.structure_factor, induced", n * (fraction + 4 * b) + k * 28.0, n * k * (_PHASE + 14.0)),
        Count(
            "kspace.fields, 13",
            n * (fraction + 10 * b + 104) + k * (12 + b + 32.0),
            n * k * (_PHASE + _FORM + 8 + 35.0),
        ),
        Count("moments.finish", n * 8.0 * (24 + 13 + 10 + 4 + 3 + 14 + 9), n * 500.0),
        Count("network.reverse", n * (e * 3 * b * 2 + kept + 24 * 8 + 96) + weights, n * reverse),
        Count("integrate.gather_forces", n * (p * 12 + e * 3 * b + 24 * 3), n * e * 3.0),
        Count("integrate.kick", n * 8.0 * 9, n * 20.0),
    ]
    return found


def mesh_counts(s: Sizes, number: int, points: int) -> list[Count]:
    """What a mesh of ``points`` points has in the place of the kernels of the direct sum (splines of order 12)."""
    n, b = s.atoms, number
    tiles = (19.0 / 8.0) ** 3  # that an atom's patch may reach
    transform = Count("transform (cuFFT)", 6.0 * points * b, 2.5 * points * math.log2(points))
    convolve = Count("mesh.convolve", 3.0 * points * b, 1.0 * points)
    line = 144 * (12 * 8 + 60.0)
    return [
        Count("moments.pack_fractions, sorting", n * 140.0, n * 60.0),
        Count("mesh.spread, M", n * (36 + 10 * b) + points * b, n * (tiles * 512 * 8 + 1728 * 28.0 + tiles * 2600)),
        transform,
        convolve,
        transform,
        Count("mesh.interpolate, 10", n * (36 + 80.0) + points * b, n * (0.7 * line + 2600)),
        Count(
            "mesh.spread, induced", n * (36 + 4 * b) + points * b, n * (tiles * 512 * 8 + 1728 * 14.0 + tiles * 1730)
        ),
        transform,
        convolve,
        transform,
        Count("mesh.interpolate, 13", n * (36 + 10 * b + 104.0) + points * b, n * (line + 3500)),
    ]


def water_mesh(atoms: int, tolerance: float = 1e-5, density: float = 0.1000, dl: float = 2.0) -> int:
    """Points of the mesh that a cube of water gets."""
    import numpy as np

    from polmd.electrostatics.ewald import wave_numbers
    from polmd.electrostatics.mesh import choose_shape

    cell = (atoms / density) ** (1.0 / 3.0) * np.eye(3)
    return math.prod(choose_shape(cell, wave_numbers(cell, dl), 1.0, tolerance, 2))


def table(device: str = "H100", atoms: tuple[int, ...] = (192, 12288, 98304)) -> list[str]:
    """Lines of a Markdown table: operations and bytes of every kernel, and the floor in microseconds."""
    lines = ["| kernel | " + " | ".join(f"{n} atoms: Mop, MB, floor in µs mixed / double" for n in atoms) + " |"]
    lines.append("|---" * (len(atoms) + 1) + "|")
    mixed, double = ([counts(water(n), b) for n in atoms] for b in (4, 8))
    for row, (first, *_) in enumerate(zip(*mixed, strict=True)):
        cells = [
            f"{m[row].operations / 1e6:.4g}, {m[row].bytes / 1e6:.3g}, {1e6 * m[row].floor(device, False):.3g} / "
            f"{1e6 * d[row].floor(device, True):.3g}"
            for m, d in zip(mixed, double, strict=True)
        ]
        lines.append(f"| {first.kernel} | " + " | ".join(cells) + " |")
    sums = [
        f"{1e6 * sum(c.floor(device, False) for c in m):.4g} / {1e6 * sum(c.floor(device, True) for c in d):.4g}"
        for m, d in zip(mixed, double, strict=True)
    ]
    lines.append("| **sum of the floors, direct sum** | " + " | ".join(sums) + " |")
    cells = []
    for n in atoms:
        points = water_mesh(n)
        parts = []
        for number in (4, 8):
            both = [c for c in counts(water(n), number) if not c.kernel.startswith("kspace")]
            both += mesh_counts(water(n), number, points)
            parts.append(f"{1e6 * sum(c.floor(device, number == 8) for c in both):.4g}")
        cells.append(f"{' / '.join(parts)}, {points} points")
    return [*lines, "| **sum of the floors, mesh 10⁻⁵** | " + " | ".join(cells) + " |"]
