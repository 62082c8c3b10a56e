"""Electrostatics against the slow twin and its complex-step derivatives, invariances, limits, refusals."""

import numba
import numpy as np
import pytest
from polmd.kernels.layout import Multipoles
from polmd.kernels.reference import electrostatics as reference
from polmd.kernels.reference.network import complex_step_gradient

import polmd
from polmd import electrostatics
from polmd.electrostatics.ewald import wave_numbers
from polmd.electrostatics.fields import symmetric_matrices
from polmd.electrostatics.open import OpenPairs
from polmd.electrostatics.solvers import periodic_solver

CELLS = {
    "triclinic": np.array([[6.1, 0.3, -0.2], [1.0, 7.0, 0.4], [-0.7, 0.6, 6.6]]),
    "left-handed": np.array([[0.0, 6.0, 0.0], [6.5, 0.0, 0.0], [0.2, 0.3, 7.0]]),
    "open": None,
}


def _inputs(n: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "r": rng.uniform(-2, 9, (n, 3)), "q": rng.normal(size=n), "u": 0.4 * rng.normal(size=(n, 3)),
        "m": 0.5 * rng.normal(size=(n, 3, 3)), "kappa": 0.02 * rng.normal(size=n),
        "alpha": 0.05 * rng.normal(size=(n, 3, 3)), "field": 0.3 * rng.normal(size=3),
    }  # fmt: skip


def _compute(x: dict, cell: np.ndarray | None, **options) -> electrostatics.ElectrostaticsResult:
    return electrostatics.compute(
        x["r"], cell, x["q"], x["u"], x["m"], x["kappa"], x["alpha"], field=x["field"], sigma=0.9, dl=1.7, **options
    )


@pytest.mark.parametrize("remove_self", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_energy_and_every_gradient(name: str, remove_self: bool) -> None:
    cell, x = CELLS[name], _inputs()
    numbers = None if cell is None else reference.wave_numbers(cell, 1.7)

    def energy(**changed):
        y = {**x, "cell": cell, **changed}
        return reference.long_range_energy(
            y["r"],
            y["cell"],
            y["q"],
            y["u"],
            y["m"],
            y["kappa"],
            y["alpha"],
            y["field"],
            0.9,
            90.4756,
            remove_self,
            numbers,
        )

    result = _compute(x, cell, remove_self_interaction=remove_self)
    assert result.energy == pytest.approx(energy(), rel=1e-12)
    got = {
        "r": -result.forces, "q": result.gradients["charges"], "u": result.gradients["dipoles"],
        "m": result.gradients["quadrupoles"], "kappa": result.gradients["charge_responses"],
        "alpha": result.gradients["polarizabilities"], "field": result.gradients["field"],
    }  # fmt: skip
    for key, value in got.items():
        want = complex_step_gradient(lambda z, key=key: energy(**{key: z}), x[key])
        np.testing.assert_allclose(value, want, atol=1e-11 * np.abs(want).max(), err_msg=key)
    eye = np.eye(3)
    strained = lambda e: energy(r=x["r"] @ (eye + e), cell=None if cell is None else cell @ (eye + e))  # noqa: E731
    want = complex_step_gradient(strained, np.zeros((3, 3)))
    np.testing.assert_allclose(result.strain_gradient, want, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("name", [*CELLS, "mesh"])
def test_several_sources_and_their_rates(name: str) -> None:
    """B = M̃·T·M of several M̃: gradients with respect to M and positions, and rates of constant dipoles M̃ along several
    motions; eleven atoms, so that the last block is not full."""
    n, sigma = 11, 0.9
    cell, x, rng = CELLS["triclinic" if name == "mesh" else name], _inputs(11), np.random.default_rng(4)
    numbers = None if cell is None else reference.wave_numbers(cell, 1.7)

    def pairing(charges, dipoles, r=x["r"], q=x["q"], u=x["u"], m=x["m"]):
        if cell is None:
            _, phi, f = reference.open_fields(r, q, u, m, sigma, 90.4756)
        else:
            _, phi, f = reference.periodic_fields(r, cell, q, u, m, sigma, 90.4756, numbers)
        return (charges * phi).sum() - (dipoles * f).sum()

    if cell is None:
        solver = OpenPairs(sigma, 90.4756)
    elif name == "mesh":
        solver = periodic_solver(cell, n, sigma=sigma, dl=1.7, method="mesh", tolerance=1e-9)
    else:
        solver = periodic_solver(cell, n, sigma=sigma, dl=1.7, method="direct")
    accuracy = 1e-6 if name == "mesh" else 1e-11
    solver.set_atoms(x["r"], cell)
    solver.set_moments(x["q"], x["u"], x["m"])
    charges, dipoles = rng.normal(size=(3, n)), rng.normal(size=(3, n, 3))
    charges[2], dipoles[0] = 0.0, 0.0
    found = solver.source_fields(charges, dipoles)
    for k in range(3):
        got = {
            "q": found[k, :, 0], "u": -found[k, :, 1:4], "m": 0.5 * symmetric_matrices(found[k, :, 4:10]),
            "r": -found[k, :, 10:13],
        }  # fmt: skip
        for key, value in got.items():
            want = complex_step_gradient(lambda z, k=k, key=key: pairing(charges[k], dipoles[k], **{key: z}), x[key])
            np.testing.assert_allclose(value, want, atol=accuracy * np.abs(want).max(), err_msg=key)
    velocities = rng.normal(size=(2, n, 3))
    rates = Multipoles(
        np.zeros((2, n)), rng.normal(size=(2, n)), rng.normal(size=(2, n, 3)), rng.normal(size=(2, n, 3, 3)),
        np.zeros((2, n)), np.zeros((2, n, 3, 3)),
    )  # fmt: skip
    want = np.empty((2, 3))
    for g, k in np.ndindex(2, 3):
        moved = (
            array + 1e-30j * rate[g]
            for array, rate in zip((x["r"], x["q"], x["u"], x["m"]), (velocities, *rates[1:4]), strict=True)
        )
        want[g, k] = pairing(0.0, dipoles[k], *moved).imag / 1e-30
    np.testing.assert_allclose(
        solver.dipole_rates(dipoles, velocities, rates), want, atol=accuracy * np.abs(want).max()
    )
    np.testing.assert_allclose(solver.source_fields(charges, dipoles), found, atol=1e-12 * np.abs(found).max())


def test_absent_quantities_and_isotropic_polarizability() -> None:
    x, cell = _inputs(), CELLS["triclinic"]
    plain = electrostatics.compute(x["r"], cell, x["q"])
    assert plain.induced_charges is None and plain.induced_dipoles is None and set(plain.gradients) == {"charges"}
    zeros = electrostatics.compute(x["r"], cell, x["q"], 0 * x["u"], 0 * x["m"], 0 * x["kappa"], 0 * x["alpha"])
    assert zeros.energy == pytest.approx(plain.energy, rel=1e-13)
    np.testing.assert_allclose(zeros.potentials, plain.potentials, atol=1e-12)
    np.testing.assert_allclose(zeros.fields, plain.fields, atol=1e-12)
    a = np.linspace(0.01, 0.05, 5)
    scalar = electrostatics.compute(x["r"], cell, x["q"], x["u"], polarizabilities=a)
    tensor = electrostatics.compute(x["r"], cell, x["q"], x["u"], polarizabilities=a[:, None, None] * np.eye(3))
    assert scalar.energy == tensor.energy
    trace = np.einsum("naa->n", tensor.gradients["polarizabilities"])
    np.testing.assert_allclose(scalar.gradients["polarizabilities"], trace, rtol=1e-14)


@pytest.mark.parametrize("name", CELLS)
def test_invariances(name: str) -> None:
    cell, x = CELLS[name], _inputs(8, seed=3)
    before = _compute(x, cell)
    rng = np.random.default_rng(1)
    o, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # rotation or reflection: all moments are polar tensors
    order = rng.permutation(8)
    y = {
        "r": (x["r"] @ o)[order] + [3.0, -20.0, 5.0], "q": x["q"][order], "u": (x["u"] @ o)[order],
        "m": (o.T @ x["m"] @ o)[order], "kappa": x["kappa"][order], "alpha": (o.T @ x["alpha"] @ o)[order],
        "field": x["field"] @ o,
    }  # fmt: skip
    if cell is not None:
        y["r"] += rng.integers(-3, 4, (8, 3)) @ (cell @ o)
    after = _compute(y, None if cell is None else cell @ o)
    assert after.energy == pytest.approx(before.energy, rel=1e-11)
    np.testing.assert_allclose(after.forces, (before.forces @ o)[order], atol=1e-10 * np.abs(before.forces).max())
    np.testing.assert_allclose(
        after.gradients["quadrupoles"], (o.T @ before.gradients["quadrupoles"] @ o)[order], atol=1e-9
    )


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-3, 0.1, 1.0])
def test_open_boundaries_down_to_zero_distance(distance: float) -> None:
    """Charge–charge against the series of erf(x)/x; quadrupoles finite and continuous with the limit r → 0."""
    sigma = 1.0
    r = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    a = 1 / (sigma * np.sqrt(2))
    z = a * distance
    kernel = (
        2
        * a
        / np.sqrt(np.pi)
        * sum((-1) ** k * z ** (2 * k) / (np.prod(np.arange(1, k + 1.0)) * (2 * k + 1)) for k in range(25))
    )
    result = electrostatics.compute(r, None, np.array([1.0, 1.0]), sigma=sigma, norm_factor=2 * np.pi)
    assert result.energy == pytest.approx(kernel, rel=1e-13)
    # two dipoles along x, two traceless quadrupoles about x: −φ'' and ¼·(3/2)² φ'''' of the series
    u = np.array([[1.0, 0, 0], [1.0, 0, 0]])
    second = (
        -2
        * a
        / np.sqrt(np.pi)
        * sum(
            (-1) ** k
            * a ** (2 * k)
            * 2
            * k
            * (2 * k - 1)
            * distance ** (2 * k - 2)
            / (np.prod(np.arange(1, k + 1.0)) * (2 * k + 1))
            for k in range(1, 25)
        )
    )
    assert electrostatics.compute(r, None, np.zeros(2), u, sigma=sigma, norm_factor=2 * np.pi).energy == pytest.approx(
        second, rel=1e-12
    )
    full = _compute({**_inputs(2), "r": r}, None)
    assert np.isfinite(full.energy) and all(np.isfinite(g).all() for g in full.gradients.values())
    if distance <= 1e-8:
        touching = _compute({**_inputs(2), "r": 0 * r}, None)
        assert full.energy == pytest.approx(touching.energy, rel=1e-7)


@pytest.mark.parametrize(
    ("cell", "dl"),
    [
        (CELLS["triclinic"], 1.1), (CELLS["left-handed"], 2.0), (12.0 * np.eye(3), 1.5), (12.0 * np.eye(3), 2.0),
        (0.9 * np.eye(3), 2.0),
    ],
)  # fmt: skip
def test_wave_numbers_are_half_of_the_sphere(cell: np.ndarray, dl: float) -> None:
    """Vectors exactly on the cutoff sphere (cubic, 12/1.5 and 12/2) are included."""
    found = wave_numbers(cell, dl)
    both = np.concatenate([found.n, -found.n])
    full = reference.wave_numbers(cell, dl)
    assert len(both) == len(full) and {tuple(n) for n in both} == {tuple(n) for n in full}
    if cell[0, 0] == 12.0:
        assert (round(12.0 / dl), 0, 0) in {tuple(n) for n in found.n}
    rows = [(a, b, low + k) for a, b, low, _, count in found.rows for k in range(count)]
    assert rows == [tuple(n) for n in found.n]


@pytest.mark.parametrize(
    ("edge", "sigma", "dl", "energy"),
    [
        (20.0, 1.0, 2.0, -0.0421), (20.0, 1.0, 1.5, -0.0049), (20.0, 1.0, 1.0, -0.0038), (20.0, 0.8, 2.0, -0.371),
        (12.0, 1.0, 2.0, -0.0527), (12.3, 1.0, 2.0, -0.0570),
    ],
)  # fmt: skip
def test_self_energy_left_by_the_truncation(edge: float, sigma: float, dl: float, energy: float) -> None:
    """A lone dipole keeps a residual that is part of the trained model; measured values of an independent program."""
    result = electrostatics.compute(
        np.array([[1.0, 2.0, 3.0]]), edge * np.eye(3), np.zeros(1), np.array([[0.0, 0.0, 1.0]]), sigma=sigma, dl=dl
    )
    assert result.energy == pytest.approx(energy, abs=6e-5 if energy > -0.1 else 6e-4)


def test_same_bits_on_any_number_of_threads() -> None:
    x, before = _inputs(30, seed=9), numba.get_num_threads()
    for cell in CELLS.values():
        try:
            numba.set_num_threads(1)
            one = _compute(x, cell)
        finally:
            numba.set_num_threads(before)
        two = _compute(x, cell)
        assert one.energy == two.energy and np.array_equal(one.forces, two.forces)
        assert np.array_equal(one.strain_gradient, two.strain_gradient)


def test_bad_input_is_named() -> None:
    x, cell = _inputs(), CELLS["triclinic"]
    with pytest.raises(polmd.InputError, match=r"charges has shape \(4,\), expected \(5,\)"):
        electrostatics.compute(x["r"], cell, x["q"][:4])
    with pytest.raises(polmd.InputError, match=r"dipoles\(2, 1\) is not finite"):
        u = x["u"].copy()
        u[2, 1] = np.nan
        electrostatics.compute(x["r"], cell, x["q"], u)
    with pytest.raises(polmd.InputError, match="singular"):
        electrostatics.compute(x["r"], np.ones((3, 3)), x["q"])
    with pytest.raises(polmd.InputError, match="sigma must be a positive"):
        electrostatics.compute(x["r"], cell, x["q"], sigma=0.0)
    with pytest.raises(polmd.InputError, match=r"needs about .* GiB, more than the limit"):
        electrostatics.compute(x["r"], 100.0 * np.eye(3), x["q"], dl=0.1)
    with pytest.raises(polmd.InputError, match="method 'tree'"):
        electrostatics.compute(x["r"], cell, x["q"], method="tree")
