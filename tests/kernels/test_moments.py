"""The passes between the fields against array formulas, with lattice coordinates that are no rotation."""

import numpy as np
import pytest
from polmd.kernels.cpu import moments
from polmd.kernels.cpu.kspace import ROWS

from polmd.electrostatics.fields import six_components, symmetric_matrices

N, LANES = 11, 8
SCALES = np.array([0.3, -0.2, 0.7])  # of the self terms


@pytest.fixture
def r() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"x": (N, 3), "q": (N,), "u": (N, 3), "m": (N, 3, 3), "dq": (N,), "du": (N, 3), "f": (N, 3)}
    shapes |= {"out": (N, 13), "low": (N, 10), "alpha": (N, 3, 3), "lattice": (3, 3), "e": (3,)}
    shapes["kappa"] = (N,)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def _atoms(atoms: np.ndarray) -> np.ndarray:
    """(blocks, rows, lanes) → (n, rows)."""
    return atoms.transpose(0, 2, 1).reshape(-1, atoms.shape[1])[:N]


def test_into_blocks_and_back(r: dict[str, np.ndarray]) -> None:
    atoms = np.zeros((2, ROWS, LANES))
    moments.pack_fractions(10 * r["x"], r["lattice"], atoms)
    fractions = 10 * r["x"] @ r["lattice"]
    np.testing.assert_allclose(_atoms(atoms)[:, :3], fractions - np.floor(fractions), atol=1e-13)
    moments.pack_velocities(r["f"], r["lattice"], atoms)
    np.testing.assert_allclose(_atoms(atoms)[:, :3], r["f"] @ r["lattice"], atol=1e-13)
    moments.pack_sources(r["q"], r["u"], r["m"], r["lattice"], atoms)
    inside = np.column_stack([r["q"], r["u"] @ r["lattice"], six_components(r["lattice"].T @ r["m"] @ r["lattice"])])
    np.testing.assert_allclose(_atoms(atoms)[:, 3:], inside, atol=1e-13)
    moments.pack_sources(r["q"], r["u"], np.empty((0, 3, 3)), r["lattice"], atoms)
    assert not atoms[:, 7:].any() and not atoms[1, :, 3:].any()
    for columns in (10, 13):
        blocks, out = np.zeros((2, columns, LANES)), np.empty((N, columns))
        for i in range(N):
            blocks[i // LANES, :, i % LANES] = r["out"][i, :columns]
        moments.unpack_fields(blocks, r["lattice"], out)
        hessian = r["lattice"] @ symmetric_matrices(r["out"][:, 4:10]) @ r["lattice"].T
        want = [r["out"][:, :1], r["out"][:, 1:4] @ r["lattice"].T, six_components(hessian)]
        want += [r["out"][:, 10:13] @ r["lattice"].T] * (columns == 13)
        np.testing.assert_allclose(out, np.column_stack(want), atol=1e-13)


def test_strain_forces_and_energy(r: dict[str, np.ndarray]) -> None:
    hessian, symmetric = symmetric_matrices(r["out"][:, 4:10]), 0.5 * (r["m"] + r["m"].transpose(0, 2, 1))
    strain = np.ones((3, 3))
    moments.moment_strain(r["u"], r["m"], r["out"], r["du"], r["low"], strain)
    want = 1 + r["u"].T @ r["out"][:, 1:4] - np.einsum("nac,ncb->ab", symmetric, hessian) + r["du"].T @ r["low"][:, 1:4]
    np.testing.assert_allclose(strain, want, atol=1e-12)

    forces = r["out"].copy()
    moments.add_response_forces(r["dq"], r["du"], r["low"], forces)
    own = symmetric_matrices(r["low"][:, 4:10])
    want = r["dq"][:, None] * r["low"][:, 1:4] - np.einsum("nab,nb->na", own, r["du"])
    np.testing.assert_allclose(forces[:, 10:] - r["out"][:, 10:], want, atol=1e-13)
    assert np.array_equal(forces[:, :10], r["out"][:, :10])

    gq, gu, gm, force = np.empty(N), np.empty((N, 3)), np.empty((N, 3, 3)), np.empty((N, 3))
    total, own_energy = moments.moment_energy(
        r["q"], r["u"], r["m"], r["out"], r["dq"], r["du"], SCALES, gq, gu, gm, force
    )
    want = r["q"] @ r["out"][:, 0] - np.sum(r["u"] * r["out"][:, 1:4]) + 0.5 * np.sum(r["m"] * hessian)
    assert total == pytest.approx(want, rel=1e-12)
    squares = [np.sum(r[name] ** 2) for name in "qum"]
    assert own_energy == pytest.approx(SCALES @ squares, rel=1e-12)
    np.testing.assert_allclose(gq, r["out"][:, 0] + 0.6 * (r["q"] + r["dq"]), atol=1e-13)
    np.testing.assert_allclose(gu, -r["out"][:, 1:4] - 0.4 * (r["u"] + r["du"]), atol=1e-13)
    np.testing.assert_allclose(gm, 0.5 * hessian + 1.4 * r["m"], atol=1e-13)
    assert np.array_equal(force, r["out"][:, 10:])


@pytest.mark.parametrize("kappa", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_linear_response(r: dict[str, np.ndarray], kappa: bool, alpha: bool) -> None:
    k, a = r["kappa"][: N * kappa], r["alpha"][: N * alpha]
    phi, field, induced = np.empty(N), np.empty((N, 3)), np.empty(N)
    dipoles, sources, gradient_k, gradient_a = np.empty((N, 3)), np.empty((N, 3)), np.empty(len(k)), np.empty(a.shape)
    gradient_e = np.empty(3)
    energy, cross = moments.linear_response(
        r["low"],
        r["q"],
        r["u"],
        k,
        a,
        r["e"],
        SCALES,
        phi,
        field,
        induced,
        dipoles,
        sources,
        gradient_k,
        gradient_a,
        gradient_e,
    )
    np.testing.assert_allclose(phi, r["low"][:, 0] + 0.6 * r["q"], atol=1e-13)
    np.testing.assert_allclose(field, r["low"][:, 1:4] + 0.4 * r["u"], atol=1e-13)
    full_k, full_a = r["kappa"] * kappa, r["alpha"] * alpha
    acting, alpha_field = field + r["e"], np.einsum("ncd,nd->nc", full_a, field)
    np.testing.assert_allclose(induced, -full_k * phi, atol=1e-13)
    np.testing.assert_allclose(dipoles, np.einsum("nc,ncd->nd", acting, full_a), atol=1e-13)
    np.testing.assert_allclose(sources, 0.5 * (dipoles + alpha_field), atol=1e-13)
    np.testing.assert_allclose(gradient_k, -0.5 * (phi**2)[: len(k)], atol=1e-13)
    np.testing.assert_allclose(gradient_a, -0.5 * (acting[:, :, None] * field[:, None, :])[: len(a)], atol=1e-13)
    np.testing.assert_allclose(gradient_e, -0.5 * alpha_field.sum(0), atol=1e-13)
    assert energy == pytest.approx(0.5 * phi @ induced - 0.5 * np.sum(field * dipoles), rel=1e-12, abs=1e-13)
    assert cross == pytest.approx(induced @ r["low"][:, 0] - np.sum(sources * r["low"][:, 1:4]), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("induced", [True, False])
def test_weigh(induced: bool) -> None:
    rng = np.random.default_rng(6)
    weight, s, more = rng.random(7), rng.normal(size=(2, 7)), rng.normal(size=(2, 7)) * induced
    spectrum, energies = np.empty((2, 7)), np.empty(7)
    moments.weigh(weight, s, more if induced else np.empty((2, 0)), spectrum, energies)
    np.testing.assert_allclose(spectrum, weight * (s + more), atol=1e-13)
    np.testing.assert_allclose(energies, 0.5 * weight * (s * (s + 2 * more)).sum(0), atol=1e-13)
