"""The cell list against the double loop over images, and what must not change it."""

import tracemalloc

import numba
import numpy as np
import pytest
from polmd.kernels.cpu import neighbors as cpu
from polmd.kernels.reference import neighbors as reference

from polmd.neighbors import complete_basis

PBC = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


def cell_of(kind, rng):
    """A cell of about 4 to 9 Å."""
    lengths = rng.uniform(4.0, 9.0, 3)
    if kind == "cubic":
        return np.eye(3) * lengths[0]
    if kind == "ortho":
        return np.diag(lengths)
    if kind == "small":
        return np.diag(lengths / 4)
    if kind == "left-handed":
        return (np.diag(lengths) + rng.uniform(-1.5, 1.5, (3, 3)))[[1, 0, 2]]
    if kind == "rotated":
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        return (np.diag(lengths) + rng.uniform(-1.5, 1.5, (3, 3))) @ rotation
    angle = np.radians(20.0)  # acute
    return np.array([[9.0, 0, 0], [8.0 * np.cos(angle), 8.0 * np.sin(angle), 0], [1.0, 2.0, 7.0]])


KINDS = ["cubic", "ortho", "small", "left-handed", "rotated", "acute"]


def arguments(positions, cell, pbc, cutoff):
    pbc = np.array(pbc)
    basis = complete_basis(np.asarray(cell, dtype=float), pbc)
    return positions, basis, np.linalg.inv(basis), pbc, cutoff


def as_sorted(first, neighbors, shifts):
    """Rows (i, j, S) in lexical order."""
    rows = np.column_stack([np.repeat(np.arange(len(first) - 1), np.diff(first)), neighbors, shifts])
    return rows[np.lexsort(rows.T[::-1])]


def check(result, expected):
    assert [a.dtype for a in result] == [np.int64, np.int32, np.int32]
    assert result[0][0] == 0 and result[0][-1] == len(result[1]) == len(result[2])
    rows = as_sorted(*result)
    np.testing.assert_array_equal(rows, as_sorted(*expected))
    mirrored = np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]])
    np.testing.assert_array_equal(mirrored[np.lexsort(mirrored.T[::-1])], rows)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_double_loop(kind, pbc):
    rng = np.random.default_rng([KINDS.index(kind), *pbc])
    for n, cutoff in ((1, 6.0), (5, 4.7), (14, 2.3)):
        cell = cell_of(kind, rng)
        positions = rng.uniform(-1.5, 2.5, (n, 3)) @ cell  # atoms inside and outside the cell
        case = arguments(positions, cell, pbc, cutoff)
        expected = reference.find_pairs(*case)
        assert len(expected[1]) or n == 1 or not all(pbc)
        check(cpu.find_pairs(*case), expected)


@pytest.mark.parametrize("pbc", PBC)
def test_equals_ase(pbc):
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    rng = np.random.default_rng(7)
    cell = np.diag([14.0, 17.0, 20.0]) + rng.uniform(-3, 3, (3, 3))
    positions = rng.uniform(-0.7, 1.4, (250, 3)) @ cell
    first, neighbors, shifts = cpu.find_pairs(*arguments(positions, cell, pbc, 5.5))
    i, j, s = neighbor_list("ijS", Atoms("H250", positions, cell=cell, pbc=pbc), 5.5, self_interaction=False)
    rows = np.column_stack([i, j, s])
    np.testing.assert_array_equal(as_sorted(first, neighbors, shifts), rows[np.lexsort(rows.T[::-1])])


@pytest.mark.parametrize("pbc", [(True, True, True), (False, True, True), (False, False, False)])
def test_perfect_lattice_with_neighbors_at_the_cutoff(pbc):
    """Pairs at the cutoff itself are decided alike from both ends; those below it by a hair are all found."""
    grid = np.array([(x, y, z) for x in range(3) for y in range(3) for z in range(4)], dtype=float)
    cell = np.diag([3.0, 3.0, 4.0])
    case = arguments(grid * 1.1, cell * 1.1, pbc, 2.2 * (1 + 1e-12))
    check(cpu.find_pairs(*case), reference.find_pairs(*case))
    case = arguments(grid, cell, pbc, 2.0)
    check(cpu.find_pairs(*case), reference.find_pairs(*case))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rows = as_sorted(*cpu.find_pairs(*arguments(grid @ rotation, cell @ rotation, pbc, 2.0)))
    mirrored = np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]])
    np.testing.assert_array_equal(mirrored[np.lexsort(mirrored.T[::-1])], rows)


def test_box_smaller_than_the_cutoff_equals_its_supercell():
    rng = np.random.default_rng(3)
    cell = np.diag([3.1, 2.7, 3.4]) + rng.uniform(-0.4, 0.4, (3, 3))
    positions = rng.uniform(0, 1, (4, 3)) @ cell
    small = cpu.find_pairs(*arguments(positions, cell, (True,) * 3, 5.5))
    copies = np.array([(a, b, c) for a in range(4) for b in range(4) for c in range(4)])
    large_positions = (copies @ cell)[:, None, :] + positions[None]
    large = cpu.find_pairs(*arguments(large_positions.reshape(-1, 3), 4 * cell, (True,) * 3, 5.5))
    np.testing.assert_array_equal(np.diff(large[0]), np.tile(np.diff(small[0]), 64))
    for atom in range(4):  # of the first copy
        p = slice(small[0][atom], small[0][atom + 1])
        q = slice(large[0][atom], large[0][atom + 1])
        ours = positions[small[1][p]] + small[2][p] @ cell
        theirs = large_positions.reshape(-1, 3)[large[1][q]] + large[2][q] @ (4 * cell)
        distances = [np.sort(np.linalg.norm(r - positions[atom], axis=1)) for r in (ours, theirs)]
        np.testing.assert_allclose(*distances, rtol=0, atol=1e-12)


def test_left_handed_equals_right_handed():
    rng = np.random.default_rng(4)
    cell = np.diag([9.0, 8.0, 7.0]) + rng.uniform(-2, 2, (3, 3))
    positions = rng.uniform(0, 1, (40, 3)) @ cell
    assert np.linalg.det(cell) > 0
    right = as_sorted(*cpu.find_pairs(*arguments(positions, cell, (True,) * 3, 5.0)))
    for swap in ([1, 0, 2], [0, 2, 1]):
        left = as_sorted(*cpu.find_pairs(*arguments(positions, cell[swap], (True,) * 3, 5.0)))
        left[:, 2:] = left[:, 2:][:, swap]
        np.testing.assert_array_equal(left[np.lexsort(left.T[::-1])], right)


def test_moving_atoms_by_lattice_vectors_changes_only_shifts():
    rng = np.random.default_rng(5)
    cell = np.diag([9.0, 8.0, 12.0]) + rng.uniform(-2, 2, (3, 3))
    positions = rng.uniform(0.05, 0.95, (60, 3)) @ cell
    moves = rng.integers(-1000, 1000, (60, 3))
    first, neighbors, shifts = cpu.find_pairs(*arguments(positions, cell, (True,) * 3, 4.0))
    moved = cpu.find_pairs(*arguments(positions + moves @ cell, cell, (True,) * 3, 4.0))
    centers = np.repeat(np.arange(60), np.diff(first))
    expected = as_sorted(first, neighbors, shifts + moves[centers] - moves[neighbors])
    np.testing.assert_array_equal(as_sorted(*moved), expected)


def test_order_does_not_depend_on_threads():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread only")
    rng = np.random.default_rng(6)
    case = arguments(rng.uniform(0, 22.0, (1000, 3)), np.eye(3) * 22.0, (True,) * 3, 5.5)
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, 2, 1, 2):
            numba.set_num_threads(threads)
            results.append(cpu.find_pairs(*case))
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, False, False), (True, True, False)])
def test_stray_atoms_cost_no_memory(pbc):
    """A drop with atoms up to 1e6 Å away: the same pairs as the drop alone, a grid of O(N) cells."""
    rng = np.random.default_rng(8)
    n, cell = 2000, np.eye(3) * 27.0
    drop = rng.uniform(0, 27.0, (n, 3))
    strays = 1e3 ** rng.uniform(1, 2, (20, 3)) * rng.choice([-1, 1], (20, 3)) * ~np.array(pbc)
    strays += 1e4 * np.arange(20)[:, None] * ~np.array(pbc) * np.sign(strays)
    case = arguments(np.concatenate([drop, strays]), cell, pbc, 5.0)
    cpu.find_pairs(*case)
    tracemalloc.start()
    result = cpu.find_pairs(*case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = cpu.find_pairs(*arguments(drop, cell, pbc, 5.0))
    np.testing.assert_array_equal(
        as_sorted(*result), as_sorted(np.append(expected[0], [expected[0][-1]] * 20), *expected[1:])
    )
    assert peak < 2 * 16 * len(result[1]) + 1000 * n
    fractions, slabs = np.empty((n + 20, 3)), np.empty((n + 20, 3))
    cpu.wrap_atoms(*case[:4], fractions, slabs, np.empty((n + 20, 3), np.int32))
    _, shape, reach = cpu.plan_grid(fractions, case[2], case[3], 5.0)
    assert shape.prod() <= cpu.CELLS_PER_ATOM * (n + 20) + 64
    assert (reach <= cpu.SLABS_PER_CUTOFF).all() and shape.prod() > n / 10  # still fine enough to be O(N)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, True)])
def test_thin_gas(pbc):
    """Few atoms in much space: the grid is coarsened, pairs are still found."""
    rng = np.random.default_rng(9)
    for spread in (1e2, 1e4, 1e6):
        positions = rng.uniform(0, spread, (60, 3))
        positions[30:] = positions[:30] + rng.uniform(-1.5, 1.5, (30, 3))
        case = arguments(positions, np.eye(3) * spread, pbc, 3.0)
        result = cpu.find_pairs(*case)
        assert len(result[1]) >= 60
        check(result, reference.find_pairs(*case))


def test_largest_displacements():
    rng = np.random.default_rng(10)
    for n in (0, 1, 2, 30):
        old, new = rng.normal(size=(2, n, 3))
        strain = np.eye(3) + rng.normal(size=(3, 3)) * 0.1
        result = cpu.largest_displacements(new, old, strain)
        np.testing.assert_allclose(result, reference.largest_displacements(new, old, strain), rtol=1e-13)
    for value in (np.nan, np.inf, -np.inf):
        new[17, 1] = new[21, 0] = value
        assert cpu.largest_displacements(new, old, strain)[2] == 17
        assert reference.largest_displacements(new, old, strain)[2] == 17
