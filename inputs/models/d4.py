"""Coordination numbers of the D4 dispersion correction (Caldeweyher et al., J. Chem. Phys. 150, 154122 (2019), equation 6).

The reference state of an atom, and with it its dispersion coefficients, depends on this number alone. For Na the switch
between the reference of NaCl-like and of bulk-like surroundings is a logistic function of it, centred at 3.388 and 0.0153
wide, so narrow because the references lie far apart: half a percent of its height is the largest deviation (fitted to the
square root of the C6 coefficients of dftd4 4.3.1 on frames of these clusters).
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from scipy.special import erfc

#: Covalent radii (Å) and electronegativities.
RADIUS, ELECTRONEGATIVITY = {11: 1.40, 17: 0.99}, {11: 0.93, 17: 3.16}


def counting(first: int, second: int, r: np.ndarray) -> np.ndarray:
    """What one neighbour at distance ``r`` (Å) adds; ``first`` and ``second`` are atomic numbers."""
    difference = abs(ELECTRONEGATIVITY[first] - ELECTRONEGATIVITY[second])
    weight = 4.10451 * np.exp(-((difference + 19.08857) ** 2) / (2 * 11.28174**2))
    return 0.5 * weight * erfc(7.5 * (r / (4 / 3 * (RADIUS[first] + RADIUS[second])) - 1))


def coordination(atoms: Atoms) -> np.ndarray:
    """Coordination numbers [atoms] of a cluster without periodic images."""
    r = atoms.get_all_distances() + 1e3 * np.eye(len(atoms))
    out = np.zeros(len(atoms))
    for first in set(atoms.numbers.tolist()):
        for second in set(atoms.numbers.tolist()):
            rows, columns = atoms.numbers == first, atoms.numbers == second
            out[rows] += counting(first, second, r[np.ix_(rows, columns)]).sum(1)
    return out
