"""The Verlet list: never a missing pair, never a needless rebuild; input that is refused; the closest pair."""

import numpy as np
import pytest

from polmd.errors import InputError, SimulationError
from polmd.neighbors import PairList, VerletList, build_pairs, closest_pair

ALL = (True, True, True)


def water_like(n=60, length=8.5, seed=0):
    rng = np.random.default_rng(seed)
    cell = np.diag([length, length * 1.1, length * 0.9]) + rng.uniform(-1, 1, (3, 3))
    return rng.uniform(0, 1, (n, 3)) @ cell, cell, rng


def pairs_within(pairs: PairList, positions, cell, cutoff):
    rows = np.column_stack([pairs.centers, pairs.neighbors, pairs.shifts])
    rows = rows[np.linalg.norm(pairs.edges(positions, cell), axis=1) < cutoff]
    return rows[np.lexsort(rows.T[::-1])]


def assert_complete(pairs, positions, cell, pbc, cutoff):
    fresh = build_pairs(positions, cell, np.array(pbc), cutoff)
    expected = pairs_within(fresh, positions, cell, cutoff)
    np.testing.assert_array_equal(pairs_within(pairs, positions, cell, cutoff), expected)


@pytest.mark.parametrize("strain", ["none", "breathing", "shear", "collapse"])
@pytest.mark.parametrize("pbc", [ALL, (True, False, True), (False, False, False)])
def test_no_pair_is_missed_along_a_walk(pbc, strain):
    positions, cell, rng = water_like()
    periodic = np.array(pbc)[:, None]
    verlet = VerletList(3.5, 0.6)
    for step in range(60):
        positions = positions + rng.normal(size=positions.shape) * 0.04
        if strain == "shear":
            deformation = np.eye(3) + rng.normal(size=(3, 3)) * 3e-3
        else:
            rate = {"none": 0.0, "breathing": 4e-3 * np.sin(step / 5), "collapse": -6e-3}[strain]
            deformation = np.eye(3) * (1 + rate)
        positions, cell = positions @ deformation, np.where(periodic, cell @ deformation, cell)
        pairs = verlet.update(positions, cell, pbc)
        assert_complete(pairs, positions, cell, pbc, 3.5)
    assert verlet.updates == 60
    assert 3 < verlet.builds < 40


def test_a_pair_of_fast_atoms_is_not_missed():
    """The worst case: two atoms approach each other, each by half the skin."""
    verlet = VerletList(3.0, 1.0)
    cell = np.zeros((3, 3))
    start = np.array([[0.0, 0, 0], [4.0, 0, 0]])  # at cutoff + skin: not in the list
    assert len(verlet.update(start, cell, (False,) * 3)) == 0
    for step, builds in ((0.499, 1), (0.501, 2)):
        moved = start + np.array([[step, 0, 0], [-step, 0, 0]])
        assert len(verlet.update(moved, cell, (False,) * 3)) == 2 * (builds - 1)
        assert verlet.builds == builds


def test_uniform_compression_alone_rebuilds_when_a_pair_may_enter():
    positions, cell, _ = water_like()
    verlet = VerletList(3.0, 1.0)
    verlet.update(positions, cell, ALL)
    verlet.update(positions * 0.7501, cell * 0.7501, ALL)  # a pair at 4 Å is still beyond 3 Å
    assert verlet.builds == 1
    verlet.update(positions * 0.7499, cell * 0.7499, ALL)
    assert verlet.builds == 2


@pytest.mark.parametrize("axis", range(3))
def test_compression_along_one_axis_brings_a_pair_in(axis):
    """The largest compression counts, not the mean: the pair at 4 Å along the axis is the one that enters."""
    deformation = np.eye(3)
    positions, cell = np.array([np.zeros(3), 4.001 * deformation[axis]]), np.eye(3) * 12.0
    deformation[axis, axis] = 0.74
    verlet = VerletList(3.0, 1.0)
    assert len(verlet.update(positions, cell, ALL)) == 0
    assert len(verlet.update(positions @ deformation, cell @ deformation, ALL)) == 2
    assert verlet.builds == 2


def test_rebuilds_only_when_needed():
    positions, cell, rng = water_like()
    verlet = VerletList(3.5, 1.0)
    first = verlet.update(positions, cell, ALL)
    assert verlet.update(positions.copy(), cell.copy(), ALL) is first
    directions = rng.normal(size=positions.shape)
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    assert verlet.update(positions + 0.499 * directions, cell, ALL) is first
    one = positions.copy()
    one[5] += [0.99, 0, 0]  # one atom alone may use the whole skin
    assert verlet.update(one, cell, ALL) is first
    assert verlet.update(positions * 1.1, cell * 1.1, ALL) is first  # an expansion brings no pair closer
    assert (verlet.builds, verlet.updates) == (1, 5)
    assert verlet.update(positions + 0.501 * directions, cell, ALL) is not first
    assert verlet.builds == 2


def test_rebuilds_when_atoms_or_boundaries_change():
    positions, cell, _ = water_like()
    verlet = VerletList(3.5, 1.0)
    verlet.update(positions, cell, ALL)
    assert len(verlet.update(positions[:-1], cell, ALL).first) == len(positions)
    verlet.update(positions[:-1], cell, (True, True, False))
    assert verlet.builds == 3


def test_no_skin_rebuilds_at_any_change():
    positions, cell, _ = water_like()
    verlet = VerletList(3.5, 0.0)
    verlet.update(positions, cell, ALL)
    verlet.update(positions, cell, ALL)
    assert verlet.builds == 1
    positions[3, 2] = np.nextafter(positions[3, 2], 100.0)
    verlet.update(positions, cell, ALL)
    assert verlet.builds == 2


def test_the_list_keeps_its_own_reference():
    """Integrators change positions in place."""
    positions, cell, _ = water_like()
    verlet = VerletList(3.5, 0.5)
    verlet.update(positions, cell, ALL)
    positions += 0.3
    verlet.update(positions, cell, ALL)
    cell *= 0.8
    positions *= 0.8
    verlet.update(positions, cell, ALL)
    assert verlet.builds == 3


def test_state_restores_the_same_order():
    positions, cell, rng = water_like()
    verlet = VerletList(3.5, 0.8)
    restarted = VerletList(3.5, 0.8)
    restarted.restore(verlet.state())  # nothing built yet
    assert restarted.builds == 0
    for step in range(30):
        positions = positions + rng.normal(size=positions.shape) * 0.05
        cell = cell * (1 + 1e-3 * np.sin(step))
        pairs = verlet.update(positions, cell, ALL)
        state = {key: np.array(value) for key, value in verlet.state().items()}
        fresh = VerletList(3.5, 0.8)
        fresh.restore(state)
        assert (fresh.builds, fresh.updates) == (verlet.builds, verlet.updates)
        again = fresh.update(positions, cell, ALL)
        assert fresh.builds == verlet.builds  # the reference serves on
        for name in ("first", "neighbors", "shifts"):
            np.testing.assert_array_equal(getattr(pairs, name), getattr(again, name))
    assert 1 < verlet.builds < 30


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
def test_lost_atoms_are_named(value):
    positions, cell, _ = water_like()
    verlet = VerletList(3.5, 0.8)
    verlet.update(positions, cell, ALL)
    positions[41, 1] = value
    with pytest.raises(SimulationError, match="atom 41 "):
        verlet.update(positions, cell, ALL)
    with pytest.raises(SimulationError, match="atom 41 "):
        VerletList(3.5, 0.8).update(positions, cell, ALL)
    with pytest.raises(InputError, match="atom 41 "):
        build_pairs(positions, cell, ALL, 3.5)


BAD_CELLS = [
    (np.diag([5.0, 0.0, 5.0]), ALL, "axis b is periodic"),
    (np.zeros((3, 3)), (False, False, True), "axis c is periodic"),
    (np.array([[5.0, 0, 0], [10.0, 0, 0], [0, 0, 5.0]]), ALL, "a, b, c are linearly dependent"),
    (np.array([[5.0, 0, 0], [10.0, 0, 0], [0, 0, 5.0]]), (True, True, False), "a, b are linearly dependent"),
    (np.array([[5.0, 0, 0], [0, 5.0, 0], [5.0, 5.0, 1e-9]]), ALL, "linearly dependent"),
    (np.diag([5.0, np.nan, 5.0]), ALL, "must be finite"),
    (np.eye(3) * 0.01, ALL, "far too small"),
    (np.eye(3) * 0.12, ALL, "far too small"),
    (np.eye(2), ALL, "cell has shape"),
]


@pytest.mark.parametrize(("cell", "pbc", "message"), BAD_CELLS)
def test_bad_cells_are_refused(cell, pbc, message):
    positions = np.random.default_rng(0).uniform(0, 5, (300, 3))
    with pytest.raises(InputError, match=message):
        build_pairs(positions, cell, pbc, 5.5)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan, np.inf])
def test_bad_lengths_are_refused(cutoff):
    with pytest.raises(InputError, match="cutoff"):
        build_pairs(np.zeros((1, 3)), np.eye(3), ALL, cutoff)
    if cutoff != 0.0:
        with pytest.raises(InputError, match="skin"):
            VerletList(3.0, cutoff)


def test_lattice_vectors_of_open_axes_are_ignored():
    positions, cell, _ = water_like()
    for pbc in ((True, True, False), (False, True, False), (False, False, False)):
        results = []
        for junk in (0.0, np.nan, 1e-3):
            other = np.where(np.array(pbc)[:, None], cell, junk)
            results.append(build_pairs(positions, other, pbc, 4.0))
        for result in results[1:]:
            np.testing.assert_array_equal(result.neighbors, results[0].neighbors)
            np.testing.assert_array_equal(result.shifts, results[0].shifts)
        assert not results[0].shifts[:, ~np.array(pbc)].any()


def test_no_atom_and_one_atom():
    assert len(build_pairs(np.zeros((0, 3)), np.eye(3), ALL, 1.5)) == 0
    assert len(build_pairs(np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3, 1.5)) == 0
    assert len(build_pairs(np.ones((1, 3)), np.eye(3), ALL, 1.1)) == 6
    assert len(VerletList(1.0, 0.2).update(np.zeros((0, 3)), np.eye(3), ALL)) == 0


def test_closest_pair():
    positions, cell, _rng = water_like(30)
    positions[7] = positions[22] + [0.1, 0.0, 0.0] + np.array([2, -1, 3]) @ cell
    i, j, distance = closest_pair(positions, cell, ALL, 2.0)
    assert (i, j) == (7, 22) and distance == pytest.approx(0.1, abs=1e-12)
    positions[11] = positions[4]
    assert closest_pair(positions, cell, ALL, 2.0) == (4, 11, 0.0)
    assert closest_pair(np.zeros((1, 3)), np.eye(3) * 2.5, ALL, 3.0) == (0, 0, 2.5)
    assert closest_pair(np.eye(3) * 10, np.zeros((3, 3)), (False,) * 3, 3.0) is None
    open_axes = np.full((3, 3), np.nan)
    assert closest_pair(np.array([[0.0, 0, 0], [0, 0, 1.0]]), open_axes, (False,) * 3, 3.0) == (0, 1, 1.0)
