"""Full neighbour lists with every periodic image, in O(N): a grid of cells over the box and over the images around it.

The stages, in the order `find_pairs` calls them:

1. `wrap_atoms`      fractional coordinates, folded into the box along periodic axes;
2. `plan_grid`       how many slabs each axis is cut into, and how many slabs the cutoff reaches;
3. `sort_images`     atoms sorted by cell, and copied to every image cell within reach of the box;
4. `count_pairs`     neighbours of each atom;
5. `fill_pairs`      the list itself.

Because images are stored as atoms of their own, the search needs no wrapping: the cells within reach of an atom are, for
each pair of slabs of axes 0 and 1, one contiguous run of atoms. Boxes smaller than the cutoff need no special case.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange
from polmd.kernels.compile import inline, kernel
from polmd.kernels.cpu.simd import BYTES, bits_below, count_bits, load

#: Slabs per cutoff along axes 0, 1 and 2, measured at water density: fine slabs along the contiguous axis 2 cut the
#: candidates at no cost, fine slabs along the others make the runs too short.
SLABS_PER_CUTOFF = (1, 1, 4)
#: At most this many cells per atom (plus a few): thinner slabs would only be empty.
CELLS_PER_ATOM = 4
#: Atoms searched by one task of a parallel loop.
BLOCK = 16
#: Candidates compared at a time, a vector of float64.
LANES = BYTES // 8


def _places_of_bits():
    """For every number of eight bits the places of those that are set, one byte each, the lowest first: (256,) uint64."""
    places = [[k for k in range(LANES) if bits >> k & 1] for bits in range(2**LANES)]
    return np.array([sum(place << 8 * at for at, place in enumerate(row)) for row in places], np.uint64)


PLACES = _places_of_bits()


@kernel()
def wrap_atoms(positions, basis, inverse, pbc, fractions, wrapped, wraps):
    """Fold the atoms into the box along periodic axes: r = wrapped + wraps @ basis.

    positions : (n, 3) float64, Å, in
    basis : (3, 3) float64, Å, in; rows are lattice vectors, unit normals on axes that are not periodic
    inverse : (3, 3) float64, 1/Å, in; inverse of basis
    pbc : (3,) bool, in
    fractions : (n, 3) float64, out; in [0, 1] along periodic axes, Å along the others
    wrapped : (n, 3) float64, Å, out
    wraps : (n, 3) int32, out

    Returns the largest coordinate of a wrapped atom, Å, whatever its sign.
    """
    farthest = 0.0
    for i in range(positions.shape[0]):
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        for axis in range(3):
            fraction = positions[i, 0] * inverse[0, axis]
            fraction += positions[i, 1] * inverse[1, axis]
            fraction += positions[i, 2] * inverse[2, axis]
            wrap = math.floor(fraction) if pbc[axis] else 0
            fractions[i, axis] = fraction - wrap
            wraps[i, axis] = wrap
            x -= wrap * basis[axis, 0]
            y -= wrap * basis[axis, 1]
            z -= wrap * basis[axis, 2]
        wrapped[i, 0], wrapped[i, 1], wrapped[i, 2] = x, y, z
        farthest = max(farthest, abs(x), abs(y), abs(z))
    return farthest


@kernel()
def assign_slabs(fractions, shape, pbc, slabs):
    """Slab of each atom along periodic axes.

    fractions : (n, 3) float64, in; from `wrap_atoms`
    shape : (3,) int64, in; slabs per axis
    pbc : (3,) bool, in
    slabs : (n, 3) int32, out; columns of open axes are left as they are
    """
    for axis in range(3):
        if pbc[axis]:
            for i in range(len(fractions)):
                slabs[i, axis] = min(int(fractions[i, axis] * shape[axis]), shape[axis] - 1)


@kernel()
def sort_images(slabs, shape, pad, wrapped, wraps, basis, quantum):
    """Sort the atoms by cell and copy every cell to its images within `pad` slabs of the box.

    slabs : (n, 3) int32, in; cell of each atom
    shape : (3,) int64, in; slabs per axis
    pad : (3,) int64, in; slabs of images added at either end of an axis, 0 where it is not periodic
    wrapped : (n, 3) float64, Å, in
    wraps : (n, 3) int32, in
    basis : (3, 3) float64, Å, in
    quantum : float, Å, in; coordinates are rounded to a multiple of it

    Returns
    -------
    x, y, z : (m + LANES,) float64, Å; atoms and their images, cell after cell, axis 2 running fastest; the end is not set
    source : (m,) int32; atom of each image
    offset : (m, 3) int32; lattice vectors from the atom as given to the image
    starts : (cells + 1,) int64; where each cell of the padded grid begins
    home : (n,) int32; where the unshifted copy of each atom is, in ascending order
    """
    n = slabs.shape[0]
    n0, n1, n2 = shape[0], shape[1], shape[2]
    p0, p1, p2 = n0 + 2 * pad[0], n1 + 2 * pad[1], n2 + 2 * pad[2]

    # counting sort, stable, so that the order of pairs depends on nothing but the arguments
    begin = np.zeros(n0 * n1 * n2 + 1, np.int64)
    for i in range(n):
        begin[(slabs[i, 0] * n1 + slabs[i, 1]) * n2 + slabs[i, 2] + 1] += 1
    for cell in range(n0 * n1 * n2):
        begin[cell + 1] += begin[cell]
    cursor = begin[:-1].copy()
    order = np.empty(n, np.int32)
    for i in range(n):
        cell = (slabs[i, 0] * n1 + slabs[i, 1]) * n2 + slabs[i, 2]
        order[cursor[cell]] = i
        cursor[cell] += 1

    starts = np.zeros(p0 * p1 * p2 + 1, np.int64)
    image = 0
    for a in range(-pad[0], n0 + pad[0]):
        for b in range(-pad[1], n1 + pad[1]):
            row = ((a % n0) * n1 + b % n1) * n2
            for c in range(-pad[2], n2 + pad[2]):
                cell = row + c % n2
                starts[image + 1] = starts[image] + begin[cell + 1] - begin[cell]
                image += 1
    m = starts[-1]

    x, y, z = np.empty(m + LANES), np.empty(m + LANES), np.empty(m + LANES)
    source = np.empty(m, np.int32)
    offset = np.empty((m, 3), np.int32)
    home = np.empty(n, np.int32)
    # Coordinates and translations are multiples of one power of two, so that their sums and differences are exact: a
    # distance is the same bit for bit seen from either atom, and the list is symmetric even for pairs at the cutoff.
    lattice = np.rint(basis / quantum) * quantum
    rounded = np.empty((n, 3))
    for k in range(n):
        for d in range(3):
            rounded[k, d] = np.rint(wrapped[order[k], d] / quantum) * quantum
    image = 0
    for a in range(-pad[0], n0 + pad[0]):
        ta = a // n0
        for b in range(-pad[1], n1 + pad[1]):
            tb = b // n1
            row = ((a % n0) * n1 + b % n1) * n2
            for c in range(-pad[2], n2 + pad[2]):
                tc = c // n2
                tx = ta * lattice[0, 0] + tb * lattice[1, 0] + tc * lattice[2, 0]
                ty = ta * lattice[0, 1] + tb * lattice[1, 1] + tc * lattice[2, 1]
                tz = ta * lattice[0, 2] + tb * lattice[1, 2] + tc * lattice[2, 2]
                cell = row + c % n2
                inside = ta == 0 and tb == 0 and tc == 0
                p = starts[image]
                for k in range(begin[cell], begin[cell + 1]):
                    i = order[k]
                    x[p], y[p], z[p] = rounded[k, 0] + tx, rounded[k, 1] + ty, rounded[k, 2] + tz
                    source[p] = i
                    offset[p, 0] = ta - wraps[i, 0]
                    offset[p, 1] = tb - wraps[i, 1]
                    offset[p, 2] = tc - wraps[i, 2]
                    if inside:
                        home[k] = p
                    p += 1
                image += 1
    return x, y, z, source, offset, starts, home


def _run(starts, shape, reach, a, b, c):
    """First and last image of cells (a, b, c - reach) to (a, b, c + reach) of the padded grid."""
    row = (a * shape[1] + b) * shape[2]
    return starts[row + max(c - reach[2], 0)], starts[row + min(c + reach[2], shape[2] - 1) + 1]


_run = inline(_run)


def _closer(x, y, z, xi, yi, zi, square, p, end):
    """Which of the LANES images from p on, but before end, are closer to an atom than the cutoff, as bits."""
    dx, dy, dz = xi - load(x, p), yi - load(y, p), zi - load(z, p)
    bits = bits_below(dx * dx + dy * dy + dz * dz, square)
    return bits & ((np.uint64(1) << np.uint64(min(end - p, LANES))) - np.uint64(1))


_closer = inline(_closer)


# No fused multiply-add in the next two kernels: both must round a distance alike, or a row would not fit its count.
@kernel(parallel=True)
def count_pairs(x, y, z, source, starts, home, slabs, shape, pad, reach, cutoff, first):
    """Count the images closer than the cutoff to each atom; returns the largest count.

    x, y, z, source, starts, home : in; from `sort_images`
    slabs : (n, 3) int32, in; cell of each atom
    shape : (3,) int64, in; slabs per axis of the padded grid
    pad : (3,) int64, in; slabs of images at either end of an axis
    reach : (3,) int64, in; how many slabs away a neighbour can be
    cutoff : float, Å, in
    first : (n + 1,) int64, out; where the neighbours of each atom begin, and their number
    """
    n = home.size
    square = cutoff * cutoff
    for block in prange((n + BLOCK - 1) // BLOCK):
        for k in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            i = source[home[k]]
            xi, yi, zi = x[home[k]], y[home[k]], z[home[k]]
            a, b, c = slabs[i, 0] + pad[0], slabs[i, 1] + pad[1], slabs[i, 2] + pad[2]
            count = -1  # the atom itself is among the images
            for aa in range(max(a - reach[0], 0), min(a + reach[0] + 1, shape[0])):
                for bb in range(max(b - reach[1], 0), min(b + reach[1] + 1, shape[1])):
                    begin, end = _run(starts, shape, reach, aa, bb, c)
                    for p in range(begin, end, LANES):
                        count += np.int64(count_bits(_closer(x, y, z, xi, yi, zi, square, p, end)))
            first[i + 1] = count
    longest = 0
    first[0] = 0
    for i in range(n):
        longest = max(longest, first[i + 1])
        first[i + 1] += first[i]
    return longest


@kernel(parallel=True)
def fill_pairs(
    x, y, z, source, offset, starts, home, slabs, shape, pad, reach, cutoff, first, longest, neighbors, shifts
):
    """Write the list: for each atom its neighbours in the order of the grid.

    x, y, z, source, offset, starts, home : in; from `sort_images`
    slabs, shape, pad, reach, cutoff : in; as in `count_pairs`
    first : (n + 1,) int64, in; where the neighbours of each atom begin
    longest : int, in; the largest number of neighbours of an atom
    neighbors : (pairs,) int32, out
    shifts : (pairs, 3) int32, out; r_i - r_j - shifts @ basis is the edge, r as given to `wrap_atoms`
    """
    n = home.size
    square = cutoff * cutoff
    for block in prange((n + BLOCK - 1) // BLOCK):
        found = np.empty(longest + 1 + LANES, np.uint32)  # the atom itself, and the last candidates
        for k in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            me = np.uint32(home[k])
            i = source[me]
            xi, yi, zi = x[me], y[me], z[me]
            a, b, c = slabs[i, 0] + pad[0], slabs[i, 1] + pad[1], slabs[i, 2] + pad[2]
            count = np.uintp(0)
            for aa in range(max(a - reach[0], 0), min(a + reach[0] + 1, shape[0])):
                for bb in range(max(b - reach[1], 0), min(b + reach[1] + 1, shape[1])):
                    begin, end = _run(starts, shape, reach, aa, bb, c)
                    for p in range(begin, end, LANES):
                        bits = _closer(x, y, z, xi, yi, zi, square, p, end)
                        # eight are written and only neighbours kept: a branch would be mispredicted
                        places = PLACES[bits]
                        for lane in range(LANES):
                            place = (places >> np.uint64(8 * lane)) & np.uint64(255)
                            found[count + np.uintp(lane)] = np.uint32(np.uint64(p) + place)
                        count += np.uintp(count_bits(bits))
            # the rows of this atom; indices are unsigned, free of Numba's negative-index test
            mine, my_shifts = neighbors[first[i] : first[i + 1]], shifts[first[i] : first[i + 1]]
            w0, w1, w2 = offset[me, 0], offset[me, 1], offset[me, 2]
            at = np.uintp(0)
            for q in range(count):
                p = found[q]
                if p != me:
                    mine[at] = source[p]
                    my_shifts[at, 0] = offset[p, 0] - w0
                    my_shifts[at, 1] = offset[p, 1] - w1
                    my_shifts[at, 2] = offset[p, 2] - w2
                    at += np.uintp(1)


def _slabs_of_periodic_axis(height, cutoff, split):
    """Slabs of an axis and the slabs a cutoff reaches: the choice that searches the smallest part of the axis."""
    most = max(1, int(height / cutoff * split))
    choices = range(max(1, most - 2 * split), most + 1)
    number = min(choices, key=lambda k: (2 * math.ceil(cutoff * k / height) + 1) / k)
    return number, math.ceil(cutoff * number / height)


def _slabs_of_open_axis(fractions, cutoff, split):
    """Slab of each atom along an axis without period; empty stretches longer than the cutoff are cut out.

    Two occupied slabs further apart than the reach stay so when the gap between them shrinks to split + 1, and closer
    ones are not moved: the grid covers the atoms, not the space between clusters or stray atoms.
    """
    slab = ((fractions - fractions.min()) * (split / cutoff)).astype(np.int64)
    occupied, inverse = np.unique(slab, return_inverse=True)
    steps = np.minimum(np.diff(occupied), split + 1)
    return np.concatenate(([0], np.cumsum(steps)))[inverse], split


def plan_grid(fractions, inverse, pbc, cutoff):
    """Cut each axis into slabs: cell of each atom (n, 3) int32, slabs per axis (3,) and reach (3,) int64.

    fractions : (n, 3) float64, in; from `wrap_atoms`
    inverse, pbc, cutoff : in; as in `find_pairs`
    """
    n = len(fractions)
    heights = [1.0 / math.sqrt(sum(v * v for v in column)) for column in inverse.T.tolist()]
    shape, reach, open_slabs = [1, 1, 1], [1, 1, 1], {}
    for axis in range(3):
        if pbc[axis]:
            shape[axis], reach[axis] = _slabs_of_periodic_axis(heights[axis], cutoff, SLABS_PER_CUTOFF[axis])
        else:
            slab, reach[axis] = _slabs_of_open_axis(fractions[:, axis], cutoff, SLABS_PER_CUTOFF[axis])
            open_slabs[axis] = slab
            shape[axis] = int(slab.max()) + 1
    while math.prod(shape) > CELLS_PER_ATOM * n + 64:  # thinly spread atoms: thicker slabs along the longest axis
        axis = shape.index(max(shape))
        if pbc[axis]:
            shape[axis] //= 2
            reach[axis] = math.ceil(cutoff * shape[axis] / heights[axis])
        else:
            open_slabs[axis] //= 2
            shape[axis] = (shape[axis] + 1) // 2
            reach[axis] = (reach[axis] + 1) // 2
    slabs = np.empty((n, 3), np.int32)
    for axis, slab in open_slabs.items():
        slabs[:, axis] = slab
    cuts = np.array(shape)
    assign_slabs(fractions, cuts, pbc, slabs)
    return slabs, cuts, np.array(reach)


def find_pairs(positions, basis, inverse, pbc, cutoff):
    """Every ordered pair (i, j, image of j) closer than the cutoff, an atom's own images included.

    positions : (n, 3) float64, Å, in; n ≥ 1, finite, anywhere
    basis : (3, 3) float64, Å, in; rows are lattice vectors; on axes that are not periodic unit vectors normal to all
        others
    inverse : (3, 3) float64, 1/Å, in; inverse of basis
    pbc : (3,) bool, in
    cutoff : float, Å, in

    Returns
    -------
    first : (n + 1,) int64; the neighbours of atom i are pairs first[i] to first[i + 1]
    neighbors : (pairs,) int32; atom j
    shifts : (pairs, 3) int32; S of the edge r_i - r_j - S @ basis
    """
    n = len(positions)
    fractions, wrapped, wraps = np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3), np.int32)
    extent = wrap_atoms(positions, basis, inverse, pbc, fractions, wrapped, wraps)
    slabs, shape, reach = plan_grid(fractions, inverse, pbc, cutoff)
    pad = reach * pbc
    for vector, periodic, width, cuts in zip(basis.tolist(), pbc.tolist(), pad.tolist(), shape.tolist(), strict=True):
        if periodic:
            extent += (1 + width / cuts) * sum(map(abs, vector))
    quantum = math.ldexp(1.0, math.frexp(max(extent, cutoff))[1] - 50)
    x, y, z, source, offset, starts, home = sort_images(slabs, shape, pad, wrapped, wraps, basis, quantum)
    padded = shape + 2 * pad
    first = np.empty(n + 1, np.int64)
    longest = count_pairs(x, y, z, source, starts, home, slabs, padded, pad, reach, cutoff, first)
    neighbors, shifts = np.empty(first[-1], np.int32), np.empty((first[-1], 3), np.int32)
    fill_pairs(
        x, y, z, source, offset, starts, home, slabs, padded, pad, reach, cutoff, first, longest, neighbors, shifts,
    )  # fmt: skip
    return first, neighbors, shifts


@kernel()
def largest_displacements(positions, reference, strain):
    """How far atoms have moved from where the deformation of the cell would have carried them.

    positions, reference : (n, 3) float64, Å, in
    strain : (3, 3) float64, in; the deformation x -> x @ strain

    Returns the largest and the second largest |r_i - R_i @ strain| in Å (0 where there are no atoms) and the first atom
    whose displacement is not finite, or -1.
    """
    largest = second = 0.0
    for i in range(positions.shape[0]):
        square = 0.0
        for axis in range(3):
            carried = reference[i, 0] * strain[0, axis]
            carried += reference[i, 1] * strain[1, axis]
            carried += reference[i, 2] * strain[2, axis]
            square += (positions[i, axis] - carried) ** 2
        if not square < np.inf:
            return largest, second, i
        if square > largest:
            largest, second = square, largest
        elif square > second:
            second = square
    return math.sqrt(largest), math.sqrt(second), -1
