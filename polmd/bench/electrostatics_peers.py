"""Peers of the electrostatics: OpenMM's polarizable multipoles, OpenMM's charges, and bare transforms of FINUFFT.

Their physics is not ours: see benchmarks/README.md for what each does that polmd does not, and the reverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from polmd.bench.cases import Case
from polmd.bench.timing import Measured, NotHere, measure
from polmd.system import System

#: Relative force tolerance that OpenMM is asked for.
_TOLERANCE = 1e-4
#: Radius of real space in nm, as AMOEBA simulations have it.
_CUTOFF_NM = 0.7


def _molecules(system: System) -> list[tuple[int, int, int]]:
    """(O, H, H) of every water molecule, by distance."""
    from polmd.neighbors import build_pairs

    pairs = build_pairs(system.positions, system.cell, system.pbc, 1.4)
    found = []
    for oxygen in np.flatnonzero(system.numbers == 8):
        near = pairs.neighbors[pairs.first[oxygen] : pairs.first[oxygen + 1]]
        hydrogens = [int(j) for j in near if system.numbers[j] == 1]
        if len(hydrogens) != 2:
            raise NotHere(f"atom {oxygen} is not the oxygen of a water molecule")
        found.append((int(oxygen), hydrogens[0], hydrogens[1]))
    return found


def _context(system: System, force: Any, platform: str, threads: int) -> Any:
    import openmm

    described = openmm.System()
    for mass in system.masses:
        described.addParticle(float(mass))
    described.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in 0.1 * system.cell))
    described.addForce(force)
    names = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
    if platform not in names:
        raise NotHere(f"OpenMM has no platform {platform} here")
    properties = {"Threads": str(threads)} if platform == "CPU" else {}
    try:
        context = openmm.Context(
            described, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName(platform), properties
        )
        context.setPositions(0.1 * system.positions)
        context.getState(getEnergy=True, getForces=True)
    except openmm.OpenMMException as error:
        raise NotHere(f"OpenMM, platform {platform}: {error}") from None
    return context


def _repeat(context: Any, system: System) -> Any:
    moved = [0.1 * system.positions, 0.1 * system.positions + 1e-7]

    def call() -> None:
        moved.reverse()
        context.setPositions(moved[0])
        context.getState(getEnergy=True, getForces=True)

    return call


def openmm_amoeba(case: Case, system: System) -> Iterator[Measured]:
    """Permanent multipoles to quadrupoles of AMOEBA water with direct polarisation, PME."""
    import openmm

    half = 0.049 * float(np.linalg.norm(system.cell, axis=1).min())
    for platform in ("OpenCL", "Reference"):
        if platform == "Reference" and len(system) > 2000:
            continue
        force = openmm.AmoebaMultipoleForce()
        force.setNonbondedMethod(openmm.AmoebaMultipoleForce.PME)
        force.setPolarizationType(openmm.AmoebaMultipoleForce.Direct)
        force.setCutoffDistance(min(_CUTOFF_NM, half))
        force.setEwaldErrorTolerance(_TOLERANCE)
        axes: dict[int, tuple[int, int]] = {}
        molecules = _molecules(system)
        for o, a, b in molecules:
            axes |= {o: (a, b), a: (o, b), b: (o, a)}
        # AMOEBA03 water (Ren and Ponder, J. Phys. Chem. B 107, 5933 (2003)), e nm^l, nm³
        for k, number in enumerate(system.numbers):
            if number == 8:
                quadrupole = [0.000354, 0, 0, 0, -0.00039, 0, 0, 0, 0.000036]
                moments = (-0.51966, [0, 0, 0.00755], quadrupole, openmm.AmoebaMultipoleForce.Bisector)
                response = (0.3069, 0.000837)
            else:
                quadrupole = [-0.000034, 0, -0.000019, 0, -0.0001, 0, -0.000019, 0, 0.000134]
                moments = (0.25983, [-0.00204, 0, -0.00307], quadrupole, openmm.AmoebaMultipoleForce.ZThenX)
                response = (0.2813, 0.000496)
            force.addMultipole(*moments, *axes[k], -1, 0.39, *response)
        for o, a, b in molecules:
            for atom, bonded in ((o, [a, b]), (a, [o]), (b, [o])):
                force.setCovalentMap(atom, openmm.AmoebaMultipoleForce.Covalent12, bonded)
            force.setCovalentMap(a, openmm.AmoebaMultipoleForce.Covalent13, [b])
            force.setCovalentMap(b, openmm.AmoebaMultipoleForce.Covalent13, [a])
            for atom in (o, a, b):
                force.setCovalentMap(atom, openmm.AmoebaMultipoleForce.PolarizationCovalent11, [o, a, b])
        try:
            context = _context(system, force, platform, max(case.threads))
        except NotHere as reason:
            yield Measured(f"{platform}: {reason}", 0, None)
            continue
        precision = "single" if platform == "OpenCL" else "double, one thread"
        settings = f"{platform}, {precision}, tolerance {_TOLERANCE:g}, direct polarisation"
        yield Measured(
            settings, max(case.threads) if platform == "OpenCL" else 1, measure(_repeat(context, system), case.seconds)
        )


def openmm_charges(case: Case, system: System) -> Iterator[Measured]:
    """Charges alone by PME, CPU platform."""
    import openmm

    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(min(0.9, 0.049 * float(np.linalg.norm(system.cell, axis=1).min())))
    force.setEwaldErrorTolerance(_TOLERANCE)
    for number in system.numbers:
        force.addParticle(-0.8 if number == 8 else 0.4, 0.3, 0.0)
    context = _context(system, force, "CPU", max(case.threads))
    yield Measured(
        f"CPU, single, tolerance {_TOLERANCE:g}, charges only", max(case.threads),
        measure(_repeat(context, system), case.seconds),
    )  # fmt: skip


def finufft(case: Case, system: System) -> Iterator[Measured]:
    """One transform to the modes and three back: what charges and their forces need, without any physics."""
    import finufft

    x, y, z = np.ascontiguousarray((2 * np.pi * (system.positions @ np.linalg.inv(system.cell) % 1.0) - np.pi).T)
    modes = tuple(2 * int(np.linalg.norm(row) / 2.0) + 1 for row in system.cell)
    charges = np.where(system.numbers == 8, -0.8, 0.4).astype(complex)
    threads = max(case.threads)

    def call() -> None:
        f = finufft.nufft3d1(x, y, z, charges, modes, eps=1e-5, nthreads=threads)
        for _ in range(3):
            finufft.nufft3d2(x, y, z, f, eps=1e-5, nthreads=threads)

    yield Measured("type 1 and three of type 2, double, eps 1e-5", threads, measure(call, case.seconds))
