"""Cell list and Verlet list on a GPU, built and found out of date without the host.

The device keeps the list, the positions it was built from and a flag. Every step launches the same kernels: ``check``
raises the flag when an atom has moved by half the skin, the others return at once where it is down, and the first
kernel that uses the list (descriptor.find_edges) takes it down again. Cells and rows of the list have fixed room; what
does not fit is counted in the flags, and the host, which looks at them when it looks at results, makes room and repeats.

Images: cells are those of the box, and the search goes around it as often as the cutoff reaches, so that boxes may be
smaller than the cutoff. Atoms of a cell are sorted, so that the list, and with it every sum over neighbours, is the same
every time. An atom beyond the ends of an open axis belongs to its last cell: never wrong, only slower.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array
from polmd.kernels.cuda.descriptor import BAD, BUILDS, CELLS, NEIGHBORS, REBUILD

FLAGS = 6
_DOUBLE = np.dtype(np.float64)
_F, _F2 = array(types.float64), array(types.float64, 2)
_I, _I2, _I3 = array(types.int32), array(types.int32, 2), array(types.int32, 3)


@functools.cache
def check(block: int = 128) -> Kernel:
    """Raise the flag when the list may miss a pair; empty the cells.

    name       shape    dtype    unit  in/out
    positions  (n, 3)   float64  Å     in
    reference  (n, 3)   float64  Å     in, positions that the list was built from
    allowed    (1,)     float64  Å²    in, (skin/2)²; negative: the list is out of date
    members    (cells,) int32          out, atoms of each cell, zero
    flags      (6,)     int32          in/out
    """

    def check(positions, reference, allowed, members, flags):
        start, stride = cuda.grid(1), cuda.gridsize(1)
        for i in range(start, len(positions), stride):
            x, y = positions[i, 0] - reference[i, 0], positions[i, 1] - reference[i, 1]
            z = positions[i, 2] - reference[i, 2]
            if not x * x + y * y + z * z <= allowed[0]:
                flags[REBUILD] = 1
        for cell in range(start, len(members), stride):
            members[cell] = 0

    return Kernel(check, (_F2, _F2, _F, _I, _I), _DOUBLE, block, occupancy=0.5)


@functools.cache
def sort_atoms(block: int = 128) -> Kernel:
    """Put the atoms into cells, in any order; remember where they are.

    name       shape             dtype    unit  in/out
    positions  (n, 3)            float64  Å     in
    basis      (2, 3, 3)         float64  Å, 1/Å  in, lattice vectors (unit normals on open axes) and their inverse
    grid       (9,)              int32          in, cells per axis, cells that the cutoff reaches, whether periodic
    scale      (6,)              float64        in, first fraction and cells per fraction of each axis
    reference  (n, 3)            float64  Å     out
    wrapped    (n, 3)            float64  Å     out, positions in the box
    wraps      (n, 3)            int32          out, r = wrapped + wraps·basis
    cells      (n, 3)            int32          out
    members    (cells,)          int32          in/out, atoms of each cell
    atoms      (cells, room)     int32          out
    flags      (6,)              int32          in/out
    """

    def sort_atoms(positions, basis, grid, scale, reference, wrapped, wraps, cells, members, atoms, flags):
        if flags[REBUILD] == 0:
            return
        for i in range(cuda.grid(1), len(positions), cuda.gridsize(1)):
            index = 0
            for axis in range(3):
                reference[i, axis] = positions[i, axis]
                wrapped[i, axis] = positions[i, axis]
            for axis in range(3):
                f = positions[i, 0] * basis[1, 0, axis] + positions[i, 1] * basis[1, 1, axis]
                f += positions[i, 2] * basis[1, 2, axis]
                if not -1e9 < f < 1e9:  # the step has failed, and is found out when the host looks
                    f, flags[BAD] = 0.0, 1
                wrap = int(math.floor(f)) if grid[6 + axis] != 0 else 0  # noqa: RUF046  a float on the device
                wraps[i, axis] = wrap
                for c in range(3):
                    wrapped[i, c] -= wrap * basis[0, axis, c]
                place = int(math.floor((f - wrap - scale[axis]) * scale[3 + axis]))  # noqa: RUF046  a float on the device
                place = max(0, min(place, grid[axis] - 1))
                cells[i, axis] = place
                index = index * grid[axis] + place
            k = cuda.atomic.add(members, index, 1)
            if k < atoms.shape[1]:
                atoms[index, k] = i
            else:
                cuda.atomic.max(flags, CELLS, k + 1)

    return Kernel(sort_atoms, (_F2, array(types.float64, 3), _I, _F, _F2, _F2, _I2, _I2, _I, _I2, _I), _DOUBLE, block,
                  occupancy=0.5)  # fmt: skip


@functools.cache
def order_atoms(block: int = 64) -> Kernel:
    """Sort the atoms of every cell: ``members``, ``atoms``, ``flags`` as above, one thread a cell."""

    def order_atoms(members, atoms, flags):
        if flags[REBUILD] == 0:
            return
        for cell in range(cuda.grid(1), len(members), cuda.gridsize(1)):
            for k in range(1, min(members[cell], atoms.shape[1])):
                atom, place = atoms[cell, k], k
                while place > 0 and atoms[cell, place - 1] > atom:
                    atoms[cell, place] = atoms[cell, place - 1]
                    place -= 1
                atoms[cell, place] = atom

    return Kernel(order_atoms, (_I, _I2, _I), _DOUBLE, block, occupancy=0.5)


@functools.cache
def find_pairs(block: int = 64) -> Kernel:
    """The list of every atom, one thread an atom.

    name                             shape                dtype    unit  in/out
    basis, grid                                                          in, as in sort_atoms
    cutoff                           (1,)                 float64  Å²    in, square of cutoff + skin
    wrapped, wraps, cells, members, atoms                                in
    counts                           (n,)                 int32          out, pairs of every atom
    neighbors                        (n, capacity)        int32          out
    shifts                           (n, capacity, 3)     int32          out, v = r_i − r_j − shifts·basis
    flags                            (6,)                 int32          in/out
    """

    def find_pairs(basis, grid, cutoff, wrapped, wraps, cells, members, atoms, counts, neighbors, shifts, flags):
        if flags[REBUILD] == 0:
            return
        for i in range(cuda.grid(1), len(wrapped), cuda.gridsize(1)):
            found = 0
            for a in range(cells[i, 0] - grid[3], cells[i, 0] + grid[3] + 1):
                t0 = a // grid[0]
                if t0 != 0 and grid[6] == 0:
                    continue
                for b in range(cells[i, 1] - grid[4], cells[i, 1] + grid[4] + 1):
                    t1 = b // grid[1]
                    if t1 != 0 and grid[7] == 0:
                        continue
                    for c in range(cells[i, 2] - grid[5], cells[i, 2] + grid[5] + 1):
                        t2 = c // grid[2]
                        if t2 != 0 and grid[8] == 0:
                            continue
                        cell = ((a - t0 * grid[0]) * grid[1] + b - t1 * grid[1]) * grid[2] + c - t2 * grid[2]
                        x = t0 * basis[0, 0, 0] + t1 * basis[0, 1, 0] + t2 * basis[0, 2, 0]
                        y = t0 * basis[0, 0, 1] + t1 * basis[0, 1, 1] + t2 * basis[0, 2, 1]
                        z = t0 * basis[0, 0, 2] + t1 * basis[0, 1, 2] + t2 * basis[0, 2, 2]
                        for k in range(min(members[cell], atoms.shape[1])):
                            j = atoms[cell, k]
                            dx = (wrapped[i, 0] - wrapped[j, 0]) - x
                            dy = (wrapped[i, 1] - wrapped[j, 1]) - y
                            dz = (wrapped[i, 2] - wrapped[j, 2]) - z
                            itself = j == i and t0 == 0 and t1 == 0 and t2 == 0
                            if itself or not dx * dx + dy * dy + dz * dz < cutoff[0]:
                                continue
                            if found < neighbors.shape[1]:
                                neighbors[i, found] = j
                                shifts[i, found, 0] = t0 + wraps[i, 0] - wraps[j, 0]
                                shifts[i, found, 1] = t1 + wraps[i, 1] - wraps[j, 1]
                                shifts[i, found, 2] = t2 + wraps[i, 2] - wraps[j, 2]
                            found += 1
            counts[i] = min(found, neighbors.shape[1])
            if found > neighbors.shape[1]:
                cuda.atomic.max(flags, NEIGHBORS, found)

    return Kernel(find_pairs, (array(types.float64, 3), _I, _F, _F2, _I2, _I2, _I, _I2, _I, _I2, _I3, _I), _DOUBLE, block,
                  occupancy=0.37)  # fmt: skip


@functools.cache
def find_mirrors(block: int = 128) -> Kernel:
    """For every pair (i, j, S) the place of (j, i, −S) in the list of j: what an atom needs to gather its forces.

    name                             shape                dtype  in/out
    counts, neighbors, shifts, flags                             in; one more build is counted
    mirrors                          (n, capacity)        int32  out, −1 where the list has no room for it
    """

    def find_mirrors(counts, neighbors, shifts, flags, mirrors):
        if flags[REBUILD] == 0:
            return
        start, capacity = cuda.grid(1), neighbors.shape[1]
        if start == 0:
            flags[BUILDS] += 1
        for k in range(start, len(counts) * capacity, cuda.gridsize(1)):
            i = k // capacity
            p = k - i * capacity
            if p >= counts[i]:
                continue
            j, found = neighbors[i, p], -1
            for q in range(counts[j]):
                if (
                    neighbors[j, q] == i
                    and shifts[j, q, 0] == -shifts[i, p, 0]
                    and shifts[j, q, 1] == -shifts[i, p, 1]
                    and shifts[j, q, 2] == -shifts[i, p, 2]
                ):
                    found = q
                    break
            mirrors[i, p] = found

    return Kernel(find_mirrors, (_I, _I2, _I3, _I, _I2), _DOUBLE, block, occupancy=0.5)


def plan_grid(
    positions: np.ndarray, basis: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """``grid`` (9,), ``scale`` (6,) of :func:`sort_atoms` and the number of cells, for atoms near ``positions`` (n, 3)."""
    inverse = np.linalg.inv(basis)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    shape, reach, first, per = np.ones(3, int), np.ones(3, int), np.zeros(3), np.zeros(3)
    for axis in range(3):
        if pbc[axis]:
            shape[axis] = max(1, int(heights[axis] / cutoff))
            reach[axis] = math.ceil(cutoff * shape[axis] / heights[axis])
            per[axis] = shape[axis]
        else:
            fractions = positions @ inverse[:, axis]
            first[axis] = fractions.min(initial=0.0) if len(positions) else 0.0
            extent = float(np.ptp(fractions)) if len(positions) else 0.0
            shape[axis] = max(1, min(int(extent / cutoff) + 1, 512))
            width = max(cutoff, extent / shape[axis])
            per[axis] = 1.0 / width
    while math.prod(shape.tolist()) > 4 * len(positions) + 64:  # thinly spread atoms
        axis = int(np.argmax(shape))
        shape[axis] = max(1, shape[axis] // 2)
        if pbc[axis]:
            reach[axis] = math.ceil(cutoff * shape[axis] / heights[axis])
            per[axis] = shape[axis]
        else:
            per[axis] = 0.5 * per[axis]
    return (
        np.concatenate([shape, reach, np.asarray(pbc, int)]).astype(np.int32),
        np.concatenate([first, per]),
        math.prod(shape.tolist()),
    )
