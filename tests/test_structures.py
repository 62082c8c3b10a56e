"""Water of our own making, and systems in and out of ASE."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import polmd
from polmd.neighbors import build_pairs
from polmd.structures import build_water, check_system
from polmd.units import DENSITY


@pytest.mark.parametrize(
    ("molecules", "periodic", "density"), [(64, True, 0.997), (30, True, 1.1), (17, False, 0.997), (216, True, 0.997)]
)
def test_water_has_the_right_density_geometry_and_contacts(molecules: int, periodic: bool, density: float) -> None:
    system = build_water(molecules, density_g_cm3=density, seed=4, periodic=periodic)
    assert np.array_equal(system.numbers, np.tile([8, 1, 1], molecules))
    if periodic:
        assert system.masses.sum() / system.volume * DENSITY == pytest.approx(density, rel=1e-12)
    else:
        assert not system.pbc.any() and system.volume == 0.0
    o, h1, h2 = system.positions[::3], system.positions[1::3], system.positions[2::3]
    for h in (h1, h2):
        np.testing.assert_allclose(np.linalg.norm(h - o, axis=1), 0.9572, atol=1e-9)
    cosine = ((h1 - o) * (h2 - o)).sum(axis=1) / 0.9572**2
    np.testing.assert_allclose(np.degrees(np.arccos(cosine)), 104.52, atol=1e-6)
    pairs = build_pairs(system.positions, system.cell, system.pbc, 2.4)
    i, j = pairs.centers, pairs.neighbors
    lengths = np.linalg.norm(pairs.edges(system.positions, system.cell), axis=1)
    other = (i // 3 != j // 3) | pairs.shifts.any(axis=1)
    kinds = system.numbers[i] + system.numbers[j]
    for kind, least in ((16, 2.4), (9, 1.5), (2, 1.6)):
        assert (lengths[other & (kinds == kind)] >= least).all(), kind
    assert check_system(system, elements=[1, 8], min_distance_A=0.5) == []


def test_water_depends_on_the_seed_alone() -> None:
    first, again, other = build_water(20, seed=1), build_water(20, seed=1), build_water(20, seed=2)
    assert np.array_equal(first.positions, again.positions)
    assert not np.allclose(first.positions, other.positions)


def test_impossible_water_is_refused() -> None:
    with pytest.raises(polmd.InputError, match="cannot be built"):
        build_water(64, density_g_cm3=4.0)
    with pytest.raises(polmd.InputError, match="cannot build"):
        build_water(0)


def test_ase_round_trip() -> None:
    atoms = molecule("CH3OH", vacuum=3.0)
    atoms.pbc = [True, False, True]
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)))
    atoms.set_masses([2.014 if s == "H" else m for s, m in zip(atoms.symbols, atoms.get_masses(), strict=True)])
    system = polmd.System.from_ase(atoms)
    back = system.to_ase()
    for name in ("get_positions", "get_masses", "get_momenta", "get_atomic_numbers"):
        np.testing.assert_allclose(getattr(back, name)(), getattr(atoms, name)(), rtol=1e-14, atol=1e-15)
    assert np.array_equal(back.cell.array, atoms.cell.array) and np.array_equal(back.pbc, atoms.pbc)
    from polmd.units import ACCELERATION

    kinetic = 0.5 * (system.masses[:, None] * system.velocities**2).sum() / ACCELERATION
    assert kinetic == pytest.approx(atoms.get_kinetic_energy(), rel=1e-7)


def test_system_refuses_wrong_shapes() -> None:
    with pytest.raises(polmd.InputError, match="positions has shape"):
        polmd.System([1, 1], np.zeros((3, 3)), np.zeros((3, 3)), [False] * 3, [1, 1], np.zeros((2, 3)))


def _check(positions: np.ndarray, edge: float = 0.0, symbols: str | None = None, **changes: object) -> list[str]:
    atoms = Atoms(symbols or f"H{len(positions)}", positions=positions, cell=[edge] * 3, pbc=edge > 0)
    system = polmd.System.from_ase(atoms)
    for name, value in changes.items():
        setattr(system, name, value)
    return check_system(system, elements=[1, 8, 18], min_distance_A=0.5)


def test_lengths_in_another_unit_are_noticed() -> None:
    """Row 17: liquid water has a possible density even when its Bohr are taken for Å, so distances must tell, too."""
    for periodic in (True, False):
        water = build_water(20, seed=3, periodic=periodic)
        for factor, word in ((1.8897, "not Bohr"), (1.0, None)):
            scaled = water.copy()
            scaled.positions *= factor
            scaled.cell *= factor
            warnings = check_system(scaled, elements=[1, 8], min_distance_A=0.5)
            assert bool(warnings) == (word is not None), warnings
            assert word is None or any(word in w for w in warnings)
        scaled.positions *= 0.1
        scaled.cell *= 0.1
        with pytest.raises(polmd.InputError, match="Å apart"):
            check_system(scaled, elements=[1, 8], min_distance_A=0.5)
        assert any("nm" in w for w in check_system(scaled, elements=[1, 8], min_distance_A=0.01))
    argon = np.array([[0.0, 0, 0], [3.76, 0, 0], [0, 3.76, 0]])
    assert _check(argon, symbols="Ar3") == []


def test_what_cannot_start_is_refused() -> None:
    """Rows 1 to 4, 7 and 10 to 12 on systems that do not come from a file."""
    two = np.array([[0.0, 0, 0], [0.74, 0, 0]])
    assert _check(two) == []
    assert _check(two[:1]) == []
    for positions, message in (
        (two[:0], "no atoms"),
        (two * [np.nan, 1, 1], r"positions of atom 0 \(H, counted from 0\) are not finite"),
        (two * 0, r"atoms 0 \(H\) and 1 \(H\), counted from 0, have identical positions"),
        (two * 0.4, r"atoms 0 \(H\) and 1 \(H\), counted from 0, are 0.296 Å apart"),
    ):
        with pytest.raises(polmd.InputError, match=message):
            _check(positions)
    with pytest.raises(polmd.InputError, match="identical positions"):
        _check(np.array([[0.0, 0, 0], [9.0, 9.0, -9.0]]), edge=9.0)
    with pytest.raises(polmd.InputError, match=r"velocities of atom 1 \(H, counted from 0\) are not finite"):
        _check(two, velocities=np.array([[0.0, 0, 0], [0, np.inf, 0]]))
    with pytest.raises(polmd.InputError, match=r"mass of atom 1 \(H, counted from 0\) is 0.0"):
        _check(two, masses=np.array([1.0, 0.0]))
    with pytest.raises(polmd.InputError, match=r"element Au \(atom 1, counted from 0\) is not in the model"):
        _check(two, symbols="HAu")
    with pytest.raises(polmd.InputError, match=r"atom 1 \(counted from 0\) has no element"):
        _check(two, symbols="HX")
    for cell, message in (
        (np.zeros((3, 3)), "axis a is periodic but its lattice vector is zero"),
        (np.array([[9.0, 0, 0], [0, 9, 0], [9, 9, 0]]), "singular"),
        (np.diag([9.0, np.nan, 9.0]), "not finite"),
    ):
        with pytest.raises(polmd.InputError, match=message):
            _check(two, edge=9.0, cell=cell)
    assert _check(two, edge=4.0, cell=np.diag([-4.0, 4.0, 4.0])) == []
