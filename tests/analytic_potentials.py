"""Potentials with known answers, in plain NumPy, for tests of the dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polmd.system import System


@dataclass
class Analytic:
    """The result of an analytic potential."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


class Stateless:
    """A potential that remembers nothing."""

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        assert not state


class Wells(Stateless):
    """E = ½ k Σ |x_i|²: independent oscillators at the origin, k in eV/Å²."""

    def __init__(self, k: float) -> None:
        self.k = k

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        x = system.positions
        return Analytic(0.5 * self.k * float(np.sum(x * x)), -self.k * x)


class Springs(Stateless):
    """E = ½ k Σ_{i<j} |x_i − x_j|²: every pair bound, harmonic, does not depend on the position of the whole."""

    def __init__(self, k: float) -> None:
        self.k = k

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        x = system.positions
        from_mean = x - x.mean(axis=0)
        n = len(x)
        return Analytic(0.5 * self.k * n * float(np.sum(from_mean**2)), -self.k * n * from_mean)


class QuarticWells(Stateless):
    """E = Σ ½ k x² + ¼ q x⁴ over all components: independent anharmonic oscillators at the origin, eV, Å."""

    def __init__(self, k: float, q: float) -> None:
        self.k, self.q = k, q

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        x = system.positions
        square = x * x
        return Analytic(
            float(np.sum((0.5 * self.k + 0.25 * self.q * square) * square)), -(self.k + self.q * square) * x
        )


class ElasticBox(Stateless):
    """E = ½ c Σ_i ln²(L_i/L₀): free atoms in a box whose edges L_i are springs; needs an orthorhombic cell."""

    def __init__(self, c: float, rest: float) -> None:
        self.c, self.rest = c, rest

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        stretch = np.log(np.diag(system.cell) / self.rest)
        energy = 0.5 * self.c * float(np.sum(stretch**2))
        return Analytic(energy, np.zeros_like(system.positions), np.diag(self.c * stretch) / system.volume)


class LennardJones(Stateless):
    """E = Σ_{i<j} 4 ε ((σ/r)¹² − (σ/r)⁶), open boundaries, no cutoff."""

    def __init__(self, epsilon: float, sigma: float) -> None:
        self.epsilon, self.sigma = epsilon, sigma

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        i, j = np.triu_indices(len(system), 1)
        d = system.positions[i] - system.positions[j]
        r2 = np.sum(d * d, axis=1)
        s6 = (self.sigma**2 / r2) ** 3
        pair = (24.0 * self.epsilon * (2.0 * s6 * s6 - s6) / r2)[:, None] * d
        forces = np.zeros_like(system.positions)
        np.add.at(forces, i, pair)
        np.subtract.at(forces, j, pair)
        virial = None
        if stress and system.pbc.all():  # of a cluster in vacuum: images are out of reach
            virial = -pair.T @ d / system.volume
        return Analytic(float(4.0 * self.epsilon * np.sum(s6 * s6 - s6)), forces, virial)


class Remembering(LennardJones):
    """Lennard-Jones whose rounding depends on when it last "rebuilt", as a neighbour list's order of summation does."""

    def __init__(self, epsilon: float, sigma: float) -> None:
        super().__init__(epsilon, sigma)
        self.built = np.zeros((0, 3))

    def compute(self, system: System, *, stress: bool = False) -> Analytic:
        x = system.positions
        if self.built.shape != x.shape or np.abs(x - self.built).max() > 0.05:
            self.built = x.copy()
        shifted = system.copy()
        shifted.positions += 1e3 * self.built[0]  # same physics, other rounding
        return super().compute(shifted, stress=stress)

    def state(self) -> dict[str, np.ndarray]:
        return {"built": self.built}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.built = state["built"].copy()


def atoms(positions: np.ndarray, number: int = 18, masses: np.ndarray | float = 39.948) -> System:
    """A system at rest with open boundaries."""
    positions = np.atleast_2d(np.asarray(positions, dtype=float))
    n = len(positions)
    return System(
        numbers=np.full(n, number),
        positions=positions,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        masses=np.broadcast_to(np.asarray(masses, dtype=float), (n,)).copy(),
        velocities=np.zeros((n, 3)),
    )


def icosahedron(radius: float) -> np.ndarray:
    """(13, 3) positions: the centre and 12 vertices at ``radius``."""
    golden = (1.0 + 5.0**0.5) / 2.0
    vertices = [np.roll((0.0, a, b * golden), shift) for a in (1, -1) for b in (1, -1) for shift in range(3)]
    vertices = np.array(vertices) / np.linalg.norm(vertices[0])
    return radius * np.vstack([np.zeros(3), vertices])


#: Argon: ε in eV, σ in Å.
ARGON = (0.0103, 3.405)


def argon_cluster(temperature_K: float = 0.0, seed: int = 0) -> System:
    """13 argon atoms near their minimum, with velocities of a temperature."""
    from polmd.dynamics.velocities import maxwell_boltzmann

    system = atoms(icosahedron(1.0824 * ARGON[1]))
    maxwell_boltzmann(system, temperature_K, np.random.default_rng(seed))
    return system
