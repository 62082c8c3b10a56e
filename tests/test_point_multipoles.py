"""Point multipoles: constants of the literature, independence of the splitting, derivatives, limits."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from typer.testing import CliRunner

from polmd import electrostatics
from polmd.errors import InputError

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
BCC_CELL = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]])
FCC_CELL = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
#: norm_factor for energies in e²/Å.
UNIT = 2 * np.pi


def _energy(positions, cell, charges, dipoles=None, **options) -> float:
    return electrostatics.compute(
        np.asarray(positions, float), cell, np.asarray(charges, float), dipoles, smearing="point", norm_factor=UNIT,
        **options,
    ).energy  # fmt: skip


# Madelung constants with respect to the distance of nearest neighbours, per formula unit (Borwein et al., Lattice Sums,
# 2013; CaF2: Johnson and Templeton, J. Chem. Phys. 34, 2004 (1961), to the digits given there).
@pytest.mark.parametrize(
    ("edge", "positions", "charges", "units", "constant", "digits"),
    [
        (2.0, [*FCC, *(FCC + np.array([0.5, 0, 0]))], [1] * 4 + [-1] * 4, 4, 1.7475645946331822, 1e-13),
        (2 / np.sqrt(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [1, -1], 1, 1.76267477307099, 1e-13),
        (4 / np.sqrt(3), [*FCC, *(FCC + 0.25)], [1] * 4 + [-1] * 4, 4, 1.63805505338879, 1e-13),
        (4 / np.sqrt(3), [*FCC, *(FCC + 0.25), *(FCC + 0.75)], [2] * 4 + [-1] * 8, 4, 5.03878, 2e-6),
    ],
    ids=["NaCl", "CsCl", "ZnS", "CaF2"],
)
def test_madelung_constants(edge, positions, charges, units, constant, digits) -> None:
    cell = edge * np.eye(3)
    assert -_energy(np.array(positions) @ cell, cell, charges) / units == pytest.approx(constant, rel=digits)


@pytest.mark.parametrize("cell", [np.eye(3), BCC_CELL, FCC_CELL], ids=["sc", "bcc", "fcc"])
def test_parallel_dipoles_on_cubic_lattices(cell) -> None:
    """Cubic surroundings in a conductor: the Lorentz field 4π P/3, energy −2π u²/(3V)."""
    for dipole in ([0, 0, 1.0], [0.6, -0.8, 0.0]):
        energy = _energy([[0, 0, 0]], cell, [0.0], np.array([dipole]))
        assert energy * abs(np.linalg.det(cell)) == pytest.approx(-2 * np.pi / 3, rel=1e-13)


def test_columns_of_antiparallel_dipoles() -> None:
    """Luttinger and Tisza, Phys. Rev. 70, 954 (1946): −2.676 N u²; −2.676788684 in later, longer sums."""
    positions, dipoles = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.outer([1.0, -1.0, -1.0, 1.0], [0, 0, 1])
    energy = _energy(positions, np.diag([2.0, 2.0, 1.0]), np.zeros(4), dipoles)
    assert energy / 4 == pytest.approx(-2.676788684, abs=5e-10)


@pytest.mark.parametrize(
    ("cell", "constant"), [(np.eye(3), -0.880059442), (BCC_CELL, -0.895929256), (FCC_CELL, -0.895873615)]
)
def test_wigner_crystal_in_its_neutralising_background(cell, constant) -> None:
    """Energy per electron over e²/r_s (Coldwell-Horsfall and Maradudin, J. Math. Phys. 1, 395 (1960)), and the pressure
    of a Coulomb system: the trace of the strain gradient is minus the energy."""
    radius = (3 * abs(np.linalg.det(cell)) / (4 * np.pi)) ** (1 / 3)
    result = electrostatics.compute(np.zeros((1, 3)), cell, np.ones(1), smearing="point", norm_factor=UNIT)
    assert result.energy * radius == pytest.approx(constant, abs=1e-9)
    assert np.trace(result.strain_gradient) == pytest.approx(-result.energy, rel=1e-12)


def _everything(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    cell, n = np.array([[6.1, 0, 0], [1, 6.6, 0], [-0.8, 0.6, 7.0]]), 7
    r = rng.uniform(-0.5, 1.5, (n, 3)) @ cell
    moments = [
        rng.normal(size=n), rng.normal(size=(n, 3)), rng.normal(size=(n, 3, 3)), 0.02 * rng.normal(size=n),
        0.05 * rng.normal(size=(n, 3, 3)),
    ]  # fmt: skip
    return r, cell, moments


def _outputs(result: electrostatics.ElectrostaticsResult) -> list[np.ndarray]:
    return [
        np.array(result.energy), result.forces, result.strain_gradient, result.potentials, result.fields,
        result.induced_charges, result.induced_dipoles, *result.gradients.values(),
    ]  # fmt: skip


def test_no_output_depends_on_the_splitting() -> None:
    """A charged cell with dipoles, quadrupoles that have a trace, and both responses."""
    r, cell, moments = _everything()
    want = _outputs(electrostatics.compute(r, cell, *moments, smearing="point"))
    for splitting in (0.5, 0.8, 1.4):
        got = _outputs(electrostatics.compute(r, cell, *moments, smearing="point", splitting=splitting))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())


def test_forces_and_strain_against_finite_differences() -> None:
    r, cell, moments = _everything(1)
    result = electrostatics.compute(r, cell, *moments, smearing="point")
    rng = np.random.default_rng(2)
    for key, gradient in (("r", -result.forces), ("strain", result.strain_gradient)):
        direction, h = rng.normal(size=gradient.shape), 2e-4

        def at(s: float, key: str = key, direction: np.ndarray = direction) -> float:
            moved = r + s * direction if key == "r" else r
            deform = np.eye(3) + (s * direction if key == "strain" else 0)
            return electrostatics.compute(moved @ deform, cell @ deform, *moments, smearing="point").energy

        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        assert slope == pytest.approx(np.sum(gradient * direction), rel=1e-8)


def test_mesh_and_its_tolerance() -> None:
    r, cell, moments = _everything(3)
    want = electrostatics.compute(r, cell, *moments, smearing="point")
    got = electrostatics.compute(r, cell, *moments, smearing="point", method="mesh", tolerance=1e-6)
    assert np.sqrt(np.sum((got.forces - want.forces) ** 2) / np.sum(want.forces**2)) < 1e-6


def test_open_boundaries_are_the_bare_sum_and_the_limit_of_wide_gaussians() -> None:
    r, _, moments = _everything(4)
    r = np.random.default_rng(5).normal(size=r.shape) * 3
    result = electrostatics.compute(r, None, moments[0], smearing="point", norm_factor=UNIT)
    distances = np.linalg.norm(r[:, None] - r[None], axis=2)[np.triu_indices(len(r), 1)]
    products = np.outer(moments[0], moments[0])[np.triu_indices(len(r), 1)]
    assert result.energy == pytest.approx(np.sum(products / distances), rel=1e-13)
    point = electrostatics.compute(r, None, *moments, smearing="point")
    narrow = electrostatics.compute(r, None, *moments, sigma=0.05)
    for a, b in zip(_outputs(narrow), _outputs(point), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())


def test_what_is_refused() -> None:
    r, cell, moments = _everything(6)
    r[3] = r[1]
    for box in (cell, None):
        with pytest.raises(InputError, match="point multipoles 1 and 3 are in the same place"):
            electrostatics.compute(r, box, *moments, smearing="point")
    with pytest.raises(InputError, match="cannot be kept"):
        electrostatics.compute(r, cell, *moments, smearing="point", remove_self_interaction=False)
    with pytest.raises(InputError, match="splitting"):
        electrostatics.compute(r, cell, *moments, smearing="point", splitting=-1.0)


def test_command_on_a_structure_with_moments(tmp_path: Path) -> None:
    from ase import Atoms

    from polmd.cli import app

    cell = 5.64 * np.eye(3)
    salt = Atoms("Na4Cl4", positions=np.array([*FCC, *(FCC + np.array([0.5, 0, 0]))]) @ cell, cell=cell, pbc=True)
    salt.arrays["charges"] = np.array([1.0] * 4 + [-1.0] * 4)
    write(tmp_path / "salt.xyz", salt, format="extxyz")
    command = ["electrostatics", str(tmp_path / "salt.xyz"), "--smearing", "point", "--out", str(tmp_path / "out.xyz")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    energy = float(done.output.split("energy:")[1].split()[0])
    assert energy == pytest.approx(-4 * 1.7475645946331822 * 90.4756 / UNIT / 2.82, rel=1e-10)
    back = read(tmp_path / "out.xyz")
    assert back.get_potential_energy() == pytest.approx(energy)
    np.testing.assert_allclose(back.arrays["potentials"] * salt.arrays["charges"], energy / 4, rtol=1e-7)
    del salt.arrays["charges"]
    write(tmp_path / "bare.xyz", salt, format="extxyz")
    refused = CliRunner().invoke(app, ["electrostatics", str(tmp_path / "bare.xyz")])
    assert isinstance(refused.exception, InputError) and "no charges" in str(refused.exception)
