"""The neighbour list by looking at every image of every pair: the oracle of `kernels.cpu.neighbors`."""

from __future__ import annotations

import itertools
import math

import numpy as np


def find_pairs(positions, basis, inverse, pbc, cutoff):
    """Every ordered pair (i, j, image of j) closer than the cutoff; arguments and results as `cpu.neighbors.find_pairs`.

    An edge r_i - r_j - S @ basis has the fractional coordinates f - S with f = (r_i - r_j) @ inverse. Along axis d its
    length is at least |f_d - S_d| times the height of the cell, 1 / |column d of inverse|, so that S_d lies within
    cutoff / height of f_d.
    """
    n = len(positions)
    first, neighbors, shifts = [0], [], []
    for i in range(n):
        for j in range(n):
            difference = positions[i] - positions[j]
            choices = []
            for axis in range(3):
                if pbc[axis]:
                    fraction = difference @ inverse[:, axis]
                    reach = cutoff * math.hypot(*inverse[:, axis])
                    choices.append(range(math.floor(fraction - reach), math.ceil(fraction + reach) + 1))
                else:
                    choices.append(range(1))
            for shift in itertools.product(*choices):
                if i == j and shift == (0, 0, 0):
                    continue
                edge = difference - np.array(shift) @ basis
                if math.hypot(*edge) < cutoff:
                    neighbors.append(j)
                    shifts.append(shift)
        first.append(len(neighbors))
    return (
        np.array(first, dtype=np.int64),
        np.array(neighbors, dtype=np.int32),
        np.array(shifts, dtype=np.int32).reshape(-1, 3),
    )


def largest_displacements(positions, reference, strain):
    """The two largest |r_i - R_i @ strain| in Å, and the first atom that is not finite or -1."""
    distances = np.linalg.norm(positions - reference @ strain, axis=1)
    bad = np.flatnonzero(~np.isfinite(distances))
    largest, second = np.sort(np.append(distances, [0.0, 0.0]))[:-3:-1]
    return largest, second, int(bad[0]) if bad.size else -1
