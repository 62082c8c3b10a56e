"""The whole potential: derivatives, invariances, boundary conditions, errors."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import read

import polmd
from polmd.model.importers.npz import read_npz

FULL = "asymmetric", "lmax2_nu3", "three_elements"


@pytest.fixture(scope="module")
def water(data: Path) -> polmd.System:
    return polmd.System.from_ase(read(data / "water_pbe0_ts.xyz"))


def _molecules(water: polmd.System, count: int, *, periodic: bool) -> polmd.System:
    """A few whole molecules of the liquid, open or in a small triclinic box (smaller than twice the cutoff)."""
    box = water.cell[0, 0]
    oxygens = np.flatnonzero(water.numbers == 8)
    hydrogens = np.flatnonzero(water.numbers == 1)
    start = water.positions[oxygens[0]]
    near = lambda r: (r - start + box / 2) % box - box / 2  # noqa: E731
    order = oxygens[np.argsort(np.linalg.norm(near(water.positions[oxygens]), axis=1))[:count]]
    atoms, positions = [], []
    for o in order:
        d = (water.positions[hydrogens] - water.positions[o] + box / 2) % box - box / 2
        for k, shift in [(o, np.zeros(3)), *[(hydrogens[h], d[h]) for h in np.argsort((d**2).sum(1))[:2]]]:
            atoms.append(k)
            positions.append(near(water.positions[o]) + shift)
    n = len(atoms)
    cell = np.array([[7.3, 0.0, 0.0], [1.1, 7.9, 0.0], [-0.8, 0.6, 8.4]]) if periodic else np.zeros((3, 3))
    return polmd.System(
        water.numbers[atoms], np.array(positions), cell, np.full(3, periodic), np.ones(n), np.zeros((n, 3))
    )


def _model(name: str, data: Path) -> polmd.Model:
    return polmd.load_model("water") if name == "water" else read_npz(data / f"{name}.npz")


def _energy(
    potential: polmd.MultipolePotential, system: polmd.System, positions: np.ndarray, cell: np.ndarray
) -> float:
    other = system.copy()
    other.positions, other.cell = np.ascontiguousarray(positions), np.ascontiguousarray(cell)
    return potential.compute(other).energy


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["water", *FULL])
def test_forces_and_stress_are_derivatives(water: polmd.System, data: Path, name: str, periodic: bool) -> None:
    """Sixth-order central differences along random directions; step 2e-3 Å: truncation and rounding both below 1e-9."""
    system = _molecules(water, 4, periodic=periodic)
    if name == "three_elements":
        system.numbers[system.numbers == 1] = np.tile([12, 79], 4)
        system.positions *= 1.25
    rng = np.random.default_rng(3)
    system.positions += 0.05 * rng.normal(size=system.positions.shape)
    potential = polmd.MultipolePotential(_model(name, data))
    result = potential.compute(system, stress=True)
    weights, h = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}, 2e-3

    for _ in range(3):
        direction = rng.normal(size=system.positions.shape)
        direction /= np.linalg.norm(direction)
        slope = sum(
            w * s * _energy(potential, system, system.positions + s * m * h * direction, system.cell) / h
            for m, w in weights.items()
            for s in (1, -1)
        )
        assert -np.sum(result.forces * direction) == pytest.approx(slope, abs=2e-9 * np.abs(result.forces).max())
    if not periodic:
        assert result.stress is None
        return
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / np.linalg.norm(strain) / 2
        h = 2e-4
        slope = 0.0
        for m, w in weights.items():
            for s in (1, -1):
                deform = np.eye(3) + s * m * h * strain
                slope += w * s * _energy(potential, system, system.positions @ deform, system.cell @ deform) / h
        scale = np.abs(result.stress).max() * system.volume
        assert np.sum(result.stress * strain) * system.volume == pytest.approx(slope, abs=1e-8 * scale)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["water", "asymmetric"])
def test_invariances(water: polmd.System, data: Path, name: str, periodic: bool) -> None:
    """Rotation, translation, permutation, wrapping, handedness: 1e-10."""
    system = _molecules(water, 4, periodic=periodic)
    potential = polmd.MultipolePotential(_model(name, data))
    before = potential.compute(system, stress=True)
    scale = np.abs(before.forces).max()
    rng = np.random.default_rng(5)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if np.linalg.det(rotation) < 0:
        rotation[0] *= -1

    turned = system.copy()
    turned.positions, turned.cell = system.positions @ rotation, system.cell @ rotation
    after = potential.compute(turned, stress=True)
    assert after.energy == pytest.approx(before.energy, rel=1e-12)
    np.testing.assert_allclose(after.forces, before.forces @ rotation, atol=1e-10 * scale)
    np.testing.assert_allclose(after.dipoles, before.dipoles @ rotation, atol=1e-12)
    np.testing.assert_allclose(after.quadrupoles, rotation.T @ before.quadrupoles @ rotation, atol=1e-12)
    np.testing.assert_allclose(after.polarizabilities, rotation.T @ before.polarizabilities @ rotation, atol=1e-12)
    np.testing.assert_allclose(after.induced_dipoles, before.induced_dipoles @ rotation, atol=1e-10)
    if periodic:
        np.testing.assert_allclose(after.stress, rotation.T @ before.stress @ rotation, atol=1e-12)

    order = rng.permutation(len(system))
    moved = polmd.System(
        system.numbers[order], system.positions[order] + [0.3, -7.1, 2.2], system.cell, system.pbc,
        system.masses, system.velocities,
    )  # fmt: skip
    if periodic:
        moved.positions += rng.integers(-2, 3, size=(len(system), 3)) @ system.cell
    after = potential.compute(moved)
    assert after.energy == pytest.approx(before.energy, rel=1e-12)
    np.testing.assert_allclose(after.forces, before.forces[order], atol=1e-10 * scale)
    assert np.abs(after.forces.sum(axis=0)).max() < 1e-11 * scale

    if periodic:
        left = system.copy()
        left.cell = system.cell[[1, 0, 2]] * np.array([[1], [1], [-1]])
        assert np.linalg.det(left.cell) * np.linalg.det(system.cell) > 0
        left.cell[2] *= -1
        assert np.linalg.det(left.cell) * np.linalg.det(system.cell) < 0
        after = potential.compute(left, stress=True)
        assert after.energy == pytest.approx(before.energy, rel=1e-12)
        np.testing.assert_allclose(after.forces, before.forces, atol=1e-10 * scale)
        np.testing.assert_allclose(after.stress, before.stress, atol=1e-12)


def test_supercell(water: polmd.System) -> None:
    """n cells have n times the energy; the box is smaller than the cutoff along one axis."""
    system = _molecules(water, 2, periodic=True)
    system.cell = np.array([[4.1, 0.0, 0.0], [0.4, 6.9, 0.0], [0.3, -0.5, 7.7]])
    potential = polmd.MultipolePotential("water")
    one = potential.compute(system, stress=True)
    many = polmd.System.from_ase(system.to_ase().repeat((3, 2, 2)))
    twelve = potential.compute(many, stress=True)
    assert twelve.energy == pytest.approx(12 * one.energy, rel=1e-10)
    np.testing.assert_allclose(twelve.forces, np.tile(one.forces, (12, 1)), atol=1e-10 * np.abs(one.forces).max())
    np.testing.assert_allclose(twelve.stress, one.stress, atol=1e-10 * np.abs(one.stress).max())


def test_acute_cell_equals_reduced_cell(water: polmd.System) -> None:
    """A lattice described by vectors 20 degrees apart gives what its compact description gives, the k set included."""
    system = _molecules(water, 3, periodic=True)
    potential = polmd.MultipolePotential("water")
    compact = potential.compute(system, stress=True)
    skewed = system.copy()
    skewed.cell = system.cell.copy()
    skewed.cell[1] += 3 * system.cell[0]
    a, b = skewed.cell[0], skewed.cell[1]
    assert np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) < 21
    other = potential.compute(skewed, stress=True)
    assert other.energy == pytest.approx(compact.energy, rel=1e-11)
    np.testing.assert_allclose(other.forces, compact.forces, atol=1e-10 * np.abs(compact.forces).max())
    np.testing.assert_allclose(other.stress, compact.stress, atol=1e-10 * np.abs(compact.stress).max())


def test_mixed_boundaries_keep_the_neighbour_list_open(water: polmd.System) -> None:
    """A slab with vacuum wider than the cutoff: the same as with three periodic axes."""
    system = _molecules(water, 3, periodic=True)
    system.cell[2] = [0.0, 0.0, 30.0]
    slab = system.copy()
    slab.pbc[2] = False
    potential = polmd.MultipolePotential("water")
    full, open_axis = potential.compute(system), potential.compute(slab)
    assert open_axis.energy == pytest.approx(full.energy, rel=1e-12)
    slab.cell[2] = 0.0
    with pytest.raises(polmd.InputError, match="lattice vector c is zero"):
        potential.compute(slab)


def test_one_atom_and_unknown_element() -> None:
    potential = polmd.MultipolePotential("water")
    atom = polmd.System([8], [[0.1, 0.2, 0.3]], np.zeros((3, 3)), [False] * 3, [16.0], np.zeros((1, 3)))
    result = potential.compute(atom)
    assert np.isfinite(result.energy) and np.abs(result.forces).max() == 0.0
    gold = polmd.System([8, 79], [[0, 0, 0], [2, 0, 0]], np.zeros((3, 3)), [False] * 3, [16, 197], np.zeros((2, 3)))
    with pytest.raises(polmd.InputError, match=r"element Au \(atom 1\)"):
        potential.compute(gold)


def test_coincident_atoms_are_named() -> None:
    potential = polmd.MultipolePotential("water")
    system = polmd.System(
        [8, 1, 8], [[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.zeros((3, 3)), [False] * 3, [1.0] * 3, np.zeros((3, 3))
    )
    with pytest.raises(polmd.SimulationError, match="atoms 0 and 2"):
        potential.compute(system)


def test_options_are_checked() -> None:
    for option in ({"device": "tpu"}, {"precision": "half"}, {"method": "tree"}):
        with pytest.raises(polmd.InputError, match=f"{next(iter(option))} = "):
            polmd.MultipolePotential("water", **option)


def test_state_restores_the_pair_list_bit_for_bit(water: polmd.System) -> None:
    rng = np.random.default_rng(1)
    first = polmd.MultipolePotential("water")
    first.compute(water)
    moved = water.copy()
    moved.positions += rng.uniform(-0.2, 0.2, moved.positions.shape)
    expected = first.compute(moved)
    second = polmd.MultipolePotential("water")
    second.restore(first.state())
    result = second.compute(moved)
    assert result.energy == expected.energy and np.array_equal(result.forces, expected.forces)
    fresh = polmd.MultipolePotential("water").compute(moved)  # another order of summation
    np.testing.assert_allclose(fresh.forces, expected.forces, atol=1e-12)


@pytest.mark.parametrize("name", ["water", "three_elements"])
def test_mixed_precision_agrees_to_single(water: polmd.System, data: Path, name: str) -> None:
    system = water
    if name == "three_elements":
        system = _molecules(water, 4, periodic=True)
        system.numbers[system.numbers == 1] = np.tile([12, 79], 4)
        system.positions *= 1.25
    model = _model(name, data)
    double = polmd.MultipolePotential(model).compute(system, stress=True)
    mixed = polmd.MultipolePotential(model, precision="mixed").compute(system, stress=True)
    for quantity in ("forces", "stress", "atomic_energies", *model.header.predicts):
        a, b = getattr(mixed, quantity), getattr(double, quantity)
        assert a.dtype == np.float64
        assert 0 < np.abs(a - b).max() < 2e-5 * np.abs(b).max(), quantity
    assert abs(mixed.energy - double.energy) < 1e-6 * len(system)


def test_mixed_forces_are_derivatives_to_single_precision(water: polmd.System) -> None:
    """A step long enough for float32, along the forces; the error of the difference is that of energies over the step."""
    system = _molecules(water, 4, periodic=True)
    potential = polmd.MultipolePotential("water", precision="mixed")
    forces = potential.compute(system).forces
    direction, h = forces / np.linalg.norm(forces), 0.02
    weights = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}
    slope = sum(
        w * s * _energy(potential, system, system.positions + s * m * h * direction, system.cell) / h
        for m, w in weights.items()
        for s in (1, -1)
    )
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=2e-4)


@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_fixed_wave_numbers_make_the_energy_smooth_in_the_cell(water: polmd.System, method: str) -> None:
    """Stretching the cell across a change of its own set of wave numbers: with the set fixed the energy follows its stress,
    and equals that of the start; without, it jumps. The set survives a checkpoint, and None takes it back."""
    system = _molecules(water, 6, periodic=True)
    free, fixed, other = (polmd.MultipolePotential("water", method=method) for _ in range(3))
    fixed.fix_wave_numbers(system.cell)
    assert free.fixed_wave_numbers is None
    assert fixed.compute(system).energy == free.compute(system).energy

    def stretched(potential: polmd.MultipolePotential, strain: float, stress: bool = False) -> polmd.potential.Result:
        other = system.copy()
        other.positions, other.cell = system.positions * (1 + strain), system.cell * (1 + strain)
        return potential.compute(other, stress=stress)

    jump, smooth = 0.0, 0.0
    h = 2e-3
    for k in range(-10, 10):
        ends = [stretched(p, e * h, True) for p in (free, fixed) for e in (k, k + 1)]
        for which, (a, b) in enumerate((ends[:2], ends[2:])):
            volumes = [system.volume * (1 + e * h) ** 3 for e in (k, k + 1)]
            slopes = [np.trace(r.stress) * v / (1 + e * h) for r, v, e in zip((a, b), volumes, (k, k + 1), strict=True)]
            off = abs(b.energy - a.energy - 0.5 * h * sum(slopes))
            if which == 0:
                jump = max(jump, off)
            else:
                smooth = max(smooth, off)
    assert smooth < 0.05 * jump

    other.restore(fixed.state())
    assert stretched(other, 0.02).energy == stretched(fixed, 0.02).energy != stretched(free, 0.02).energy
    fixed.fix_wave_numbers(None)
    assert stretched(fixed, 0.02).energy == pytest.approx(stretched(free, 0.02).energy, rel=1e-13)
