"""What tests of the device share: small systems, and how closely the two devices have to agree."""

from __future__ import annotations

import numpy as np

from polmd.system import System

#: Largest difference over the largest number, by precision.
TOLERANCE = {"double": 1e-9, "mixed": 2e-5}
CELL = np.array([[4.0, 0.0, 0.0], [0.7, 4.4, 0.0], [-0.5, 0.3, 5.1]])


def make_system(n: int = 4, *, elements: tuple[int, ...] = (1, 8), pbc: bool = True, seed: int = 11) -> System:
    """Atoms at random in a box smaller than the cutoff, some outside, or in open boundaries, nowhere very close."""
    rng = np.random.default_rng(seed)
    corners = np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(3)])[:n] / np.array([2, 2, 3])
    fractions = corners + rng.uniform(0, 0.15, (n, 3)) + (rng.integers(-2, 3, (n, 3)) if pbc else 0)
    positions = fractions @ (CELL if pbc else 1.3 * CELL)
    numbers = np.resize(elements, n)
    velocities = rng.normal(scale=0.01, size=(n, 3))
    velocities -= velocities.mean(axis=0)
    cell = CELL if pbc else np.zeros((3, 3))
    return System(numbers, positions, cell, np.array([pbc] * 3), np.full(n, 12.0), velocities)


def assert_close(found, expected, precision: str, what: str = "", scale: float = 1e-12) -> None:
    """Equal to within the tolerance of the precision, relative to the largest number, or to ``scale`` where that is more."""
    found, expected = np.asarray(found), np.asarray(expected)
    scale = max(float(np.abs(expected).max(initial=0.0)), scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[precision] * scale, err_msg=what)
