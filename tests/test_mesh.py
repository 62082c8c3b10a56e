"""The particle mesh: against its slow twin, the direct sum, and finite differences of its own energy."""

import numba
import numpy as np
import pytest
from polmd.kernels.reference.mesh import ReferenceMesh

import polmd
from polmd import electrostatics
from polmd.electrostatics.ewald import DirectSum, wave_numbers
from polmd.electrostatics.fields import Sources, symmetric_matrices
from polmd.electrostatics.mesh import MeshSum, choose_shape, estimated_error, spline_table
from polmd.electrostatics.solvers import periodic_solver
from polmd.errors import InputError
from polmd.structures import build_water

CELLS = {
    "cubic": 12.4 * np.eye(3),
    "triclinic": np.array([[12.0, 0.0, 0.0], [5.0, 11.0, 0.0], [-3.0, 4.0, 10.0]]),
    "left-handed": np.array([[0.3, 9.0, 0.0], [10.0, 0.2, 0.0], [0.2, 0.3, 13.0]]),
}


def _moments(n: int, cell: np.ndarray, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    r = rng.uniform(-0.7, 1.6, (n, 3)) @ cell
    q, u, m = rng.normal(size=n), 0.6 * rng.normal(size=(n, 3)), 0.5 * rng.normal(size=(n, 3, 3))
    return r, q, u, m, 0.02 * rng.normal(size=n), 0.05 * rng.normal(size=(n, 3, 3))


def test_splines_are_a_partition_of_unity_with_continuous_derivatives() -> None:
    for order in (4, 8, 12):
        table = spline_table(order)
        for t in (-0.5, -0.2, 0.4, 0.5):
            values = np.einsum("dmj,m->dj", table, t ** np.arange(12))
            assert values[0].sum() == pytest.approx(1.0, abs=1e-14)
            np.testing.assert_allclose(values[1:, :].sum(axis=1), 0.0, atol=1e-13)
        left = np.einsum("dmj,m->dj", table, 0.5 ** np.arange(12))
        right = np.einsum("dmj,m->dj", table, (-0.5) ** np.arange(12))
        smooth = min(4, order - 1)  # derivatives that are continuous
        np.testing.assert_allclose(left[:smooth, 1:order], right[:smooth, : order - 1], atol=1e-13)
        assert not table[:, :, order:].any()


@pytest.mark.parametrize("name", CELLS)
def test_against_the_slow_twin(name: str) -> None:
    """Every output of both passes, mesh against mesh: equal to rounding, whatever the number of threads."""
    cell, sigma, shape = CELLS[name], 0.9, (24, 27, 30)
    r, q, u, m, _, _ = _moments(40, cell)
    numbers = wave_numbers(cell, 2.0)
    twin = ReferenceMesh(r, cell, sigma, 90.4756, np.concatenate([numbers.n, -numbers.n]), shape, 12)
    symmetric = 0.5 * (m + m.transpose(0, 2, 1))
    rng = np.random.default_rng(1)
    dq, du = 0.1 * rng.normal(size=len(q)), 0.1 * rng.normal(size=u.shape)
    bare = twin.potential(q, u, symmetric)
    want_bare = twin.interactions(dq, du, 0 * m, bare)
    want = twin.interactions(q, u, symmetric, bare + twin.potential(dq, du, 0 * m))
    threads = numba.get_num_threads()
    results = []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            solver = MeshSum(sigma, 90.4756, numbers, shape)
            solver.set_atoms(r, cell)
            solver.set_moments(q, u, m)
            low = solver.derivatives()
            results.append(solver.interactions(Sources(dq, du))[0])
    finally:
        numba.set_num_threads(threads)
    out = results[0]
    np.testing.assert_array_equal(out, results[-1])
    got = out[:, 0], out[:, 1:4], symmetric_matrices(out[:, 4:10]), out[:, 10:13]
    expected = want[0], want[1], want[2], want[3] + want_bare[3]
    np.testing.assert_allclose(low[:, 0], want_bare[0], atol=1e-11 * np.abs(want_bare[0]).max())
    np.testing.assert_allclose(low[:, 1:4], want_bare[1], atol=1e-11 * np.abs(want_bare[1]).max())
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11 * np.abs(b).max())


@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_the_energy_of_the_mesh(name: str) -> None:
    """On a mesh far too coarse for the direct sum: forces, strain and every moment gradient by central differences."""
    cell = CELLS[name]
    r, q, u, m, kappa, alpha = _moments(12, cell, 3)
    solver = MeshSum(1.0, 90.4756, wave_numbers(cell, 2.4), (14, 14, 14))
    x = {"r": r, "q": q, "u": u, "m": m, "kappa": kappa, "alpha": alpha, "strain": np.zeros((3, 3))}

    def evaluate(**changed: np.ndarray) -> electrostatics.ElectrostaticsResult:
        y = {**x, **changed}
        deform = np.eye(3) + y["strain"]
        return electrostatics.compute(
            y["r"] @ deform, cell @ deform, y["q"], y["u"], y["m"], y["kappa"], y["alpha"], solver=solver
        )

    result = evaluate()
    gradients = {
        "r": -result.forces, "strain": result.strain_gradient, "q": result.gradients["charges"],
        "u": result.gradients["dipoles"], "m": result.gradients["quadrupoles"],
        "kappa": result.gradients["charge_responses"], "alpha": result.gradients["polarizabilities"],
    }  # fmt: skip
    rng = np.random.default_rng(5)
    for key, gradient in gradients.items():
        for _ in range(2):
            direction = rng.normal(size=gradient.shape)
            h = 1e-3

            def at(s: float, key: str = key, direction: np.ndarray = direction) -> float:
                return evaluate(**{key: x[key] + s * direction}).energy

            slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
            size = np.abs(gradient).max() * np.abs(direction).sum()
            assert slope == pytest.approx(np.sum(gradient * direction), abs=1e-7 * size), key


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_tolerance_holds_and_is_not_wasted(name: str, tolerance: float) -> None:
    """Charges, dipoles and quadrupoles alone, the hardest cases of their rank; the estimate is right within a factor 3."""
    cell = CELLS[name]
    r, *moments = _moments(200, cell, 7)
    numbers = wave_numbers(cell, 2.0)
    for rank in range(3):
        alone = [x if k == rank else 0 * x for k, x in enumerate(moments[:3])]
        shape = choose_shape(cell, numbers, 1.0, tolerance, rank)
        forces = []
        for solver in (DirectSum(1.0, 90.4756, numbers), MeshSum(1.0, 90.4756, numbers, shape)):
            forces.append(electrostatics.compute(r, cell, *alone, remove_self_interaction=False, solver=solver).forces)
        error = np.sqrt(np.sum((forces[1] - forces[0]) ** 2) / np.sum(forces[0] ** 2))
        assert error < tolerance
        estimate = estimated_error(cell, numbers, 1.0, shape, rank)
        assert estimate / 3 < error < 3 * estimate


def test_water_box_of_many_cells_and_the_choice_of_method() -> None:
    """The bundled model on 1 536 atoms: auto takes the mesh, its forces, stress and energy are those of the direct sum."""
    system = polmd.System.from_ase(build_water(64, seed=2).to_ase().repeat(2))
    direct = polmd.MultipolePotential("water").compute(system, stress=True)
    potential = polmd.MultipolePotential("water", method="auto")
    assert isinstance(potential.electrostatics_solver(system), MeshSum)
    mesh = potential.compute(system, stress=True)
    assert potential.mesh_error(system) < 1e-5
    assert mesh.energy == pytest.approx(direct.energy, abs=1e-5 * abs(direct.long_range_energy))
    np.testing.assert_allclose(mesh.forces, direct.forces, atol=1e-5 * np.abs(direct.forces).max())
    np.testing.assert_allclose(mesh.stress, direct.stress, atol=1e-5 * np.abs(direct.stress).max())
    small = build_water(64, seed=2)
    assert isinstance(potential.electrostatics_solver(small), DirectSum)
    assert potential.mesh_error(small) == 0.0


def test_energy_of_a_supercell_and_translation() -> None:
    """The mesh has no preferred atom: the error, not the energy, depends on where atoms lie between its points."""
    cell = CELLS["triclinic"]
    r, q, u, m, kappa, alpha = _moments(20, cell, 9)
    solver = periodic_solver(cell, 20, method="mesh", tolerance=1e-8)
    energies = [
        electrostatics.compute(r + shift, cell, q, u, m, kappa, alpha, solver=solver).energy
        for shift in (np.zeros(3), np.array([0.13, -0.31, 5.2]), 3 * cell[1] - cell[2])
    ]
    assert energies[1] == pytest.approx(energies[0], rel=1e-7)
    assert energies[2] == pytest.approx(energies[0], rel=1e-12)


def test_what_would_not_fit_is_refused_before_it_is_made() -> None:
    cell = 100.0 * np.eye(3)
    one = np.ones(1), np.zeros((1, 3))
    with pytest.raises(InputError, match=r"GiB.*larger dl"):
        electrostatics.compute(np.zeros((1, 3)), cell, *one, dl=0.1, method="direct")
    with pytest.raises(InputError, match=r"mesh of .* GiB.*electrostatics.tolerance"):
        electrostatics.compute(np.zeros((1, 3)), 330.0 * np.eye(3), *one, dl=4.0, method="mesh", tolerance=1e-10)
    with pytest.raises(InputError, match="needs a cell"):
        electrostatics.compute(np.zeros((1, 3)), None, *one, method="mesh")
    for options in ({"method": "pme"}, {"smearing": "slater"}, {"tolerance": 0.0}, {"tolerance": float("nan")}):
        with pytest.raises(InputError):
            electrostatics.compute(np.zeros((1, 3)), 9.0 * np.eye(3), *one, **options)
