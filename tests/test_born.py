"""Born charges, polarisation, current and fields of whole models."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import read
from polmd.kernels.layout import Multipoles
from test_potential import FULL, _model, _molecules

import polmd
from polmd import born
from polmd.electrostatics.ewald import DirectSum, wave_numbers
from polmd.electrostatics.open import OpenPairs
from polmd.field import FieldPotential
from polmd.model.importers.npz import read_npz

PUBLISHED = {"displacement": "phase", "acoustic_sum_rule": False}


@pytest.fixture(scope="module")
def water(data: Path) -> polmd.System:
    return polmd.System.from_ase(read(data / "water_pbe0_ts.xyz"))


# ------------------------------------------------------------------------------------------------------------ vectors


def _compare(group: h5py.Group, model: polmd.Model) -> None:
    i, n = group["in"], len(group["in/numbers"])
    system = polmd.System(
        i["numbers"][()], i["positions"][()], i["cell"][()], i["pbc"][()], np.ones(n), np.zeros((n, 3))
    )
    r = polmd.MultipolePotential(model).compute(system, born_charges=True, **PUBLISHED)
    for name in ("born_charges", "born_charge_part", "born_dipole_part"):
        if name in group["out"]:
            want = group["out"][name][()]
            assert np.abs(getattr(r, name) - want).max() < 1e-9 * np.abs(want).max(), (group.name, name)


@pytest.mark.parametrize("group", ["008", "011", "012", "013"])
def test_bundled_and_random_models(data: Path, group: str) -> None:
    with h5py.File(data / "models.h5") as h5:
        weights = str(h5[group].attrs["weights"])
        _compare(h5[group], polmd.load_model("water") if weights == "weights.npz" else read_npz(data / weights))


def test_every_group(shared: Path) -> None:
    found = {p.name: p for p in (shared / "models").rglob("*.npz")}
    with h5py.File(shared / "vectors" / "models.h5") as h5:
        assert len(h5) == 14
        for group in h5.values():
            _compare(group, read_npz(found[str(group.attrs["weights"])]))


class _Jacobians:
    """A local model that is known by its Jacobians only, ∂q_j/∂r_i (n, n, 3) and ∂u_j/∂r_i (n, 3, n, 3)."""

    def __init__(self, positions: np.ndarray, cell: np.ndarray | None, dq: np.ndarray, du: np.ndarray) -> None:
        self.dq, self.du = dq, du
        d = positions[:, None] - positions[None, :]
        if cell is not None:
            d = np.sin(2 * np.pi * d @ np.linalg.inv(cell)) / (2 * np.pi) @ cell
        self.displaced = d

    def gradients(self, seeds: Multipoles, angles: np.ndarray | None = None) -> np.ndarray:
        found = np.einsum("mj,jib->mib", seeds.charges, self.dq) + np.einsum("mja,jaib->mib", seeds.dipoles, self.du)
        if angles is None:
            return found
        jacobian = seeds.charges[0, :, None, None] * self.dq * (1 - np.eye(len(self.dq)))[:, :, None]
        moved = np.einsum("jia,jib->aib", self.displaced, jacobian)
        return np.concatenate([found, moved, moved])

    def rates(self, velocities: np.ndarray) -> Multipoles:
        raise NotImplementedError


@pytest.mark.parametrize("case", range(4))
def test_given_jacobians(data: Path, case: int) -> None:
    """Reference Born charges of a toy model: periodic and open, with and without κ and α, published scale."""
    with h5py.File(data / "born_charges.h5") as h5:
        group = h5[f"case_{case:03d}"]
        attributes = dict(group.attrs)
        i = {k: v[()] for k, v in group["in"].items()}
        out = {k: v[()] for k, v in group["out"].items()}
    n, sigma = len(i["r"]), float(attributes["sigma"])
    assert attributes["remove_mean"] and attributes["remove_self_interaction"]
    kappa, alpha = i.get("kappa"), i.get("alpha")
    if alpha is not None and alpha.ndim == 1:
        alpha = alpha[:, None, None] * np.eye(3)
    cell = None if attributes["kind"] == "open" else i["cell"]
    e = polmd.electrostatics.compute(
        i["r"], cell, i["q"], i["u"], None, kappa, alpha, sigma=sigma, dl=float(attributes["dl"])
    )
    scale = 0.0 if cell is None else -90.4756 / (2 * np.pi) ** 1.5
    solver = OpenPairs(sigma, 90.4756)
    if cell is not None:
        solver = DirectSum(sigma, 90.4756, wave_numbers(cell, float(attributes["dl"])))
    solver.set_atoms(i["r"], cell)
    moments = Multipoles(
        np.zeros(n), i["q"], i["u"], np.zeros((n, 3, 3)), np.zeros(n) if kappa is None else kappa,
        np.zeros((n, 3, 3)) if alpha is None else alpha,
    )  # fmt: skip
    solver.set_moments(*moments[1:4])
    electrostatics = born.Electrostatics(
        i["r"], cell, solver, scale / sigma, scale / (3 * sigma**3), moments, True, kappa is not None,
        alpha is not None, e.potentials, e.fields,
    )  # fmt: skip
    conventions = born.Conventions("phase", False, float(np.sqrt(attributes["epsilon_factor"])))
    local = _Jacobians(i["r"], cell, i["dq_dr"], i["du_dr"])
    z = born.born_charges(electrostatics, local, conventions)
    np.testing.assert_allclose(electrostatics.charges, out["q_total"] - out["q_total"].mean(), atol=1e-12)
    np.testing.assert_allclose(i["u"] + electrostatics.induced_dipoles, out["u_total"], atol=1e-12)
    size = np.abs(out["bec_total"]).max()
    np.testing.assert_allclose(z.charge_part, out["bec_charge"], atol=1e-9 * size)
    np.testing.assert_allclose(z.dipole_part, out["bec_dipole"], atol=1e-9 * size)
    np.testing.assert_allclose(z.total, out["bec_total"], atol=1e-9 * size)


# ------------------------------------------------------------------------------------------------- finite differences


def _prepared(water: polmd.System, name: str, periodic: bool) -> polmd.System:
    system = _molecules(water, 4, periodic=periodic)
    if name == "three_elements":
        system.numbers[system.numbers == 1] = np.tile([12, 79], 4)
        system.positions *= 1.25
    system.positions += 0.05 * np.random.default_rng(3).normal(size=system.positions.shape)
    return system


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["water", *FULL])
def test_born_charges_are_derivatives(water: polmd.System, data: Path, name: str, periodic: bool) -> None:
    """Sixth-order central differences of P_k at fixed phase, of P, and of the dipoles alone; step 2e-3 Å."""
    system = _prepared(water, name, periodic)
    potential = polmd.MultipolePotential(_model(name, data))
    z = potential.compute(system, born_charges=True, **PUBLISHED).born
    rng = np.random.default_rng(8)
    size, h = np.abs(z.total).max(), 2e-3
    for i in rng.choice(len(system), 4, replace=False):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        charge, dipole = 0.0, 0.0
        for m, w in {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}.items():
            for s in (1, -1):
                moved = system.copy()
                moved.positions[i] += s * m * h * direction
                p = potential.response(moved, born.Conventions()).polarization
                charge = charge + s * w * p.charge / h
                dipole = dipole + s * w * (p.permanent + p.induced) / h
        if periodic:
            phase = np.exp(-2j * np.pi * system.positions[i] @ np.linalg.inv(system.cell))
            charge = np.real(phase * charge) @ system.cell
        np.testing.assert_allclose(z.charge_part[i] @ direction, charge, atol=1e-7 * size)
        np.testing.assert_allclose(z.dipole_part[i] @ direction, dipole, atol=1e-7 * size)


@pytest.mark.parametrize("periodic", [True, False])
def test_current_is_the_rate_of_the_polarisation(water: polmd.System, periodic: bool) -> None:
    """Open boundaries: all of it; periodic: the dipoles, which do not depend on the displacement."""
    system = _prepared(water, "water", periodic)
    potential = polmd.MultipolePotential("water")
    v = np.random.default_rng(1).normal(size=system.positions.shape)
    r = potential.compute(system, velocities=v, acoustic_sum_rule=False)
    rate, h = 0.0, 5e-4
    for m, w in {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}.items():
        for s in (1, -1):
            moved = system.copy()
            moved.positions += s * m * h * v
            p = potential.response(moved, born.Conventions()).polarization
            rate = rate + s * w * np.stack([0 * p.permanent if periodic else p.charge, p.permanent, p.induced]) / h
    found = r.currents.parts[0]
    first = 1 if periodic else 0
    np.testing.assert_allclose(found[first:], rate[first:], atol=1e-7 * np.abs(found).max())


# ------------------------------------------------------------------------------------------------------- conventions


def test_rotation_and_images(water: polmd.System) -> None:
    system = _prepared(water, "water", True)
    potential = polmd.MultipolePotential("water")
    v = np.random.default_rng(2).normal(size=system.positions.shape)
    before = potential.compute(system, born_charges=True, velocities=v)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    moved = system.copy()
    moved.positions, moved.cell = system.positions @ turn, system.cell @ turn
    moved.positions += np.random.default_rng(4).integers(-2, 3, (len(system), 3)) @ moved.cell + [0.3, 4.0, -2.0]
    after = potential.compute(moved, born_charges=True, velocities=v @ turn)
    np.testing.assert_allclose(after.born_charges, turn.T @ before.born_charges @ turn, atol=1e-10)
    np.testing.assert_allclose(after.current, before.current @ turn, atol=1e-10)
    assert np.abs(before.born_charges.sum(axis=0)).max() < 1e-12  # the acoustic sum rule


def test_conventions_are_printed_and_checked(water: polmd.System) -> None:
    potential = polmd.MultipolePotential("water")
    r = potential.compute(water, born_charges=True, displacement="phase", born_charge_scale=1.5)
    assert str(r.born).startswith(
        "Born charges: displacement phase, mean of Z* subtracted, scale 1.5; largest component"
    )
    assert 0.3 < np.abs(r.born.sum).max() < 1.0
    for options in ({"displacement": "none"}, {"born_charge_scale": 0.0}):
        with pytest.raises(polmd.InputError, match=f"{next(iter(options))} = "):
            potential.compute(water, born_charges=True, **options)
    chi = born.susceptibility(r.polarizabilities, water.volume, 90.4756)
    assert chi == pytest.approx(4 * np.pi * 64 * 0.70 / water.volume, rel=0.02)  # Σα = 0.70 Å³ per molecule
    assert born.screening_scale(1.78, chi) == pytest.approx(np.sqrt(1.78 / (1 + chi)))


def test_energies_only_model_has_no_response(water: polmd.System) -> None:
    from random_models import random_model

    potential = polmd.MultipolePotential(random_model(predicts=()))
    with pytest.raises(polmd.InputError, match="predicts energies only"):
        potential.compute(water, born_charges=True)


def _without(model: polmd.Model, name: str) -> polmd.Model:
    header = model.header
    kept = [other for other in header.predicts if other != name]
    return polmd.Model(header.model_copy(update={"predicts": kept}), model.arrays, "without " + name)


def _mean_of_oxygens(potential: polmd.MultipolePotential, system: polmd.System) -> dict[str, float]:
    """tr Z*/3 of the charges with both displacements, edge less phase, and the largest |ΣZ*|."""
    r = potential.compute(system, born_charges=True, displacement="edge", acoustic_sum_rule=False).born
    edge, phase = (
        float(np.trace(z, axis1=1, axis2=2)[system.numbers == 8].mean() / 3)
        for z in (r.charge_part, r.other_charge_part)
    )
    return {"edge": edge, "phase": phase, "edge - phase": edge - phase, "sum": float(np.abs(r.sum).max())}


def test_edge_displacement_of_local_charges_does_not_depend_on_the_box(water: polmd.System) -> None:
    """64 molecules and eight copies of them: without κ the edge gives the same Z* but for the removed mean, which keeps the
    phase; the phase does not. With κ the non-local charges, which keep the phase, grow as the square of the box with both
    displacements alike."""
    large = polmd.System.from_ase(water.to_ase().repeat((2, 2, 2)))
    for name in ("water", "without κ"):
        model = polmd.load_model("water")
        potential = polmd.MultipolePotential(model if name == "water" else _without(model, "charge_responses"))
        small, big = _mean_of_oxygens(potential, water), _mean_of_oxygens(potential, large)
        change = {key: abs(big[key] - small[key]) for key in small}
        assert 0.005 < change["edge - phase"] < 0.02, change
        if name == "water":
            assert 0.2 < change["edge"] < 0.5 and 0.2 < change["phase"] < 0.5, change
        else:
            assert change["edge"] < 2e-5 and change["phase"] > 0.005, change


@pytest.mark.slow
def test_edge_displacement_does_not_depend_on_the_box_when_thermalised(water: polmd.System) -> None:
    """Without κ, 64 and 512 molecules thermalised on their own: the mean of tr Z*/3 of the oxygens changes ten times less
    with the edge than with the phase."""
    from polmd.dynamics.integrators import Langevin
    from polmd.dynamics.simulation import Simulation

    potential = polmd.MultipolePotential(_without(polmd.load_model("water"), "charge_responses"))
    found: list[dict[str, float]] = []
    for repeat, blocks, samples in ((1, 8, 40), (2, 8, 5)):
        # independent blocks: their scatter is the error of the mean
        rows = []
        for seed in range(blocks):
            system = polmd.System.from_ase(water.to_ase().repeat((repeat,) * 3))
            simulation = Simulation(system, potential, Langevin(0.5, temperature_K=300, friction_per_ps=20), rng=seed)
            simulation.draw_velocities(300)
            simulation.run(400)
            for _ in range(samples):
                simulation.run(40)
                row = _mean_of_oxygens(potential, simulation.state.system)
                rows.append([seed, row["edge"], row["phase"], row["sum"]])
        means = np.array([np.mean([r[1:] for r in rows if r[0] == seed], axis=0) for seed in range(blocks)])
        mean, error = means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(blocks)
        print(f"{64 * repeat**3} molecules: edge {mean[0]:.5f} ± {error[0]:.5f}, phase {mean[1]:.5f} ± {error[1]:.5f}, "
              f"largest |ΣZ*| {mean[2]:.3f}")  # fmt: skip
        found.append({"edge": mean[0], "phase": mean[1]})
    change = {key: abs(found[1][key] - found[0][key]) for key in found[0]}
    assert change["edge"] < 0.1 * change["phase"], change


# ------------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize("periodic", [True, False])
def test_forces_in_a_field(water: polmd.System, periodic: bool) -> None:
    system = _prepared(water, "water", periodic)
    potential = polmd.MultipolePotential("water")
    field = np.array([0.02, -0.05, 0.03])
    for displacement in ("edge", "phase"):
        conventions = born.Conventions(displacement, True, 1.2)
        bare = potential.compute(system, born_charges=True, displacement=displacement, born_charge_scale=1.2)
        for e in (field, np.array([0.0, 0.1, 0.0])):
            r = FieldPotential(potential, e, conventions).compute(system)
            want = bare.forces + np.einsum("a,nab->nb", e, bare.born_charges)
            np.testing.assert_allclose(r.forces, want, atol=1e-11)
    with pytest.raises(polmd.InputError, match="three finite components"):
        FieldPotential(potential, np.array([0.0, np.nan, 0.0]), born.Conventions())


@pytest.mark.parametrize("periodic", [True, False])
def test_energy_in_a_field_is_conserved(water: polmd.System, periodic: bool) -> None:
    """NVE in a strong field: what is conserved wanders 20 times less than the field's part of it, and a
    continued potential gives the same bits."""
    from polmd.dynamics.integrators import VelocityVerlet
    from polmd.dynamics.simulation import Simulation

    potential = FieldPotential(polmd.MultipolePotential("water"), np.array([0.0, 0.0, 0.3]), born.Conventions())
    simulation = Simulation(_molecules(water, 4, periodic=False) if not periodic else water, potential,
                            VelocityVerlet(0.25), rng=2)  # fmt: skip
    simulation.draw_velocities(100)
    start, before = simulation.conserved, simulation.state.result.field_energy
    simulation.run(60)
    moved = abs(simulation.state.result.field_energy - before)
    assert moved > 0.05
    assert abs(simulation.conserved - start) < 0.05 * moved
    twin = FieldPotential(polmd.MultipolePotential("water"), potential.field, born.Conventions())
    twin.restore(potential.state())
    again = twin.compute(simulation.state.system)
    assert again.energy == simulation.state.result.energy
    assert np.array_equal(again.forces, simulation.state.result.forces)
