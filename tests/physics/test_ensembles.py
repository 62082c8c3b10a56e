"""Thermostats and barostats against exact distributions, their conserved quantities, reversibility."""

import numpy as np
import physical_validation
import pytest
from analytic_potentials import ARGON, ElasticBox, LennardJones, QuarticWells, Wells, argon_cluster, atoms
from drift import measure_drift
from scipy import stats

from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Bussi, Langevin, NoseHoover, VelocityVerlet
from polmd.dynamics.ramp import Ramp
from polmd.dynamics.simulation import Limits, Simulation
from polmd.units import ACCELERATION, BAR, BOLTZMANN

T = 300.0
KT = BOLTZMANN * T
NO_LIMITS = Limits(np.inf, np.inf, np.inf)

THERMOSTATS = {
    "langevin": lambda dt, target, momentum="none": Langevin(dt, target, 2.0, momentum=momentum),
    "bussi": lambda dt, target, momentum="none": Bussi(dt, target, 0.2, momentum=momentum),
    "nose-hoover": lambda dt, target, momentum="none": NoseHoover(dt, target, 0.2, momentum=momentum),
}


def _oscillators(n: int, seed: int, temperature: float = T) -> Simulation:
    """n carbon atoms in wells with ω Δt = 0.05 at 5 fs, spread as at the temperature."""
    k = 12.011 * (0.01) ** 2 / ACCELERATION
    rng = np.random.default_rng(seed)
    system = atoms(rng.normal(size=(n, 3)) * np.sqrt(BOLTZMANN * temperature / k), masses=12.011)
    simulation = Simulation(system, Wells(k), VelocityVerlet(5.0, momentum="none"), rng=rng, limits=NO_LIMITS)
    simulation.draw_velocities(temperature, momentum="none")
    return simulation


@pytest.mark.parametrize("name", THERMOSTATS)
def test_harmonic_wells_to_half_a_percent(name: str) -> None:
    """⟨x²⟩ = k_B T/k from a start that is 20 % too hot."""
    simulation = _oscillators(600, 3, 1.2 * T)
    simulation.set_stage(THERMOSTATS[name](5.0, T))
    simulation.run(1000)
    samples: list[float] = []
    steps = 20_000 if name == "nose-hoover" else 8000  # equal wells make its temperature ring
    simulation.run(steps, on_step=lambda s: samples.append(2.0 * s.state.result.energy / (1800 * KT)))
    blocks = np.reshape(samples, (10, -1)).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(10)
    assert error < 0.0025
    assert blocks.mean() == pytest.approx(1.0, abs=0.005)


ARGON_WELL = 39.948 * (0.01) ** 2 / ACCELERATION


def _quartic_wells(positions: np.ndarray, integrator, temperature: float, rng: np.random.Generator) -> Simulation:
    """Argon atoms, each in a quartic well of its own, with velocities of the temperature."""
    potential = QuarticWells(ARGON_WELL, 3.0 * ARGON_WELL)
    simulation = Simulation(atoms(positions, masses=39.948), potential, integrator, rng=rng, limits=NO_LIMITS)
    simulation.draw_velocities(temperature, momentum="none")
    return simulation


def _along_a_trajectory(name: str, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kinetic and potential energies of 30 wells every 480 steps of 2 fs, eV: the correlation, which rings with the wells
    and is still 0.6 after 0.24 ps, is below 0.1."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(30, 3)) * 0.3
    simulation = _quartic_wells(start, THERMOSTATS[name](2.0, temperature), temperature, rng)
    simulation.run(1500)
    kinetic, potential = [], []
    for _ in range(300):
        simulation.run(480)
        kinetic.append(simulation.state.kinetic_energy)
        potential.append(simulation.state.result.energy)
    return np.array(kinetic), np.array(potential)


def _from_canonical_starts(temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for a Nosé–Hoover chain, 0.6 ps after each of 300 starts drawn from the canonical distribution of wells and
    chain. Independent wells leave a chain's ringing undamped for nanoseconds: one trajectory is not ergodic."""
    rng = np.random.default_rng(seed)
    thermal = BOLTZMANN * temperature
    kinetic, potential = [], []
    for _ in range(300):
        x = rng.normal(size=2000) * np.sqrt(thermal / ARGON_WELL)  # by rejection
        x = x[rng.random(2000) < np.exp(-0.75 * ARGON_WELL * x**4 / thermal)][:90]
        integrator = THERMOSTATS["nose-hoover"](2.0, temperature)
        simulation = _quartic_wells(x.reshape(30, 3), integrator, temperature, rng)
        integrator.thermostat.frictions[:] = rng.normal(size=3) / 200.0 / np.sqrt([90.0, 1.0, 1.0])
        simulation.run(300)
        kinetic.append(simulation.state.kinetic_energy)
        potential.append(simulation.state.result.energy)
    return np.array(kinetic), np.array(potential)


_UNITS = physical_validation.data.UnitData(
    kb=BOLTZMANN,
    energy_conversion=96.48533212331002,
    length_conversion=0.1,
    volume_conversion=1e-3,
    temperature_conversion=1.0,
    pressure_conversion=1.0,
    time_conversion=1e-3,
    energy_str="eV",
    length_str="Å",
    volume_str="Å³",
    temperature_str="K",
    pressure_str="bar",
    time_str="fs",
)


def _data(ensemble: str, natoms: int, removed: int, observables: dict[str, np.ndarray], **target: float):
    system = physical_validation.data.SystemData(
        natoms=natoms, nconstraints=0, ndof_reduction_tra=removed, ndof_reduction_rot=0, mass=np.ones(natoms)
    )
    return physical_validation.data.SimulationData(
        units=_UNITS,
        ensemble=physical_validation.data.EnsembleData(ensemble, natoms=natoms, **target),
        system=system,
        observables=physical_validation.data.ObservableData(**observables),
    )


@pytest.mark.parametrize("name", THERMOSTATS)
def test_kinetic_energy_and_temperature_pair(name: str) -> None:
    """physical_validation: kinetic energies follow the Maxwell–Boltzmann distribution; two temperatures differ by the
    Boltzmann factor of the total and of the potential energy."""
    runs = []
    for temperature, seed in ((T, 1), (T * 1.12, 2)):
        if name == "nose-hoover":
            kinetic, potential = _from_canonical_starts(temperature, seed)
        else:
            kinetic, potential = _along_a_trajectory(name, temperature, seed)
        observables = {"kinetic_energy": kinetic, "potential_energy": potential, "total_energy": kinetic + potential}
        runs.append(_data("NVT", 30, 0, observables, volume=1.0, temperature=temperature))
    options = {"verbosity": 0, "bootstrap_seed": 1, "data_is_uncorrelated": True}
    for run in runs:
        assert physical_validation.kinetic_energy.distribution(run, strict=True, **options) > 1e-3
        off_mean, off_width = physical_validation.kinetic_energy.distribution(run, strict=False, **options)
        assert abs(off_mean) < 4 and abs(off_width) < 4
    for total in (True, False):
        quantiles = physical_validation.ensemble.check(*runs, total_energy=total, **options)
        assert max(map(abs, quantiles)) < 4


@pytest.mark.parametrize("momentum", ["linear", "none"])
def test_rescaling_gives_the_canonical_kinetic_energy(momentum: str) -> None:
    """Three free atoms, τ of two steps: 2K/k_B T is χ² with 6 or 9 degrees of freedom; the momentum stays zero."""
    masses = np.array([1.008, 15.999, 1.008])
    system = atoms(np.zeros((3, 3)), masses=masses)
    simulation = Simulation(system, Wells(0.0), Bussi(10.0, T, 0.02, momentum=momentum), rng=5, limits=NO_LIMITS)
    simulation.draw_velocities(T, momentum=momentum)
    values: list[float] = []
    simulation.run(
        20_000, on_step=lambda s: values.append(2 * s.state.kinetic_energy / KT) if s.state.step % 20 == 0 else None
    )
    assert stats.kstest(values, stats.chi2(6 if momentum == "linear" else 9).cdf).pvalue > 1e-3
    p = masses[:, None] * simulation.state.system.velocities
    assert (np.abs(p.sum(axis=0)).max() < 1e-10 * np.abs(p).sum()) == (momentum == "linear")


def test_rescaling_step_is_exact() -> None:
    """K after one step from a fixed K is the noncentral χ² of the exact solution, and one step equals two of half."""
    n, dt, tau, k0 = 12, 30.0, 0.05, 0.7
    c = np.exp(-dt / (1e3 * tau))
    for pieces in (1, 2):
        rng = np.random.default_rng(pieces)
        after = []
        simulation = Simulation(atoms(np.zeros((4, 3))), Wells(0.0), Bussi(dt, T, tau, momentum="none"), rng=rng)
        state, thermostat = simulation.state, simulation.integrator.thermostat
        for _ in range(4000):
            state.system.velocities[:] = 1.0
            state.system.velocities *= np.sqrt(k0 / state.kinetic_energy)
            heat = sum(thermostat.apply(state, dt / pieces) for _ in range(pieces))
            after.append(state.kinetic_energy)
            assert heat == pytest.approx(after[-1] - k0, abs=1e-12)
        scaled = 2.0 * np.array(after) / ((1.0 - c) * KT)
        assert stats.kstest(scaled, stats.ncx2(n, 2.0 * c * k0 / ((1.0 - c) * KT)).cdf).pvalue > 1e-3


# ---- conserved quantities ---------------------------------------------------------------------------------------------


def test_nose_hoover_is_reversible() -> None:
    """Turned back with its chain, the trajectory returns to its start."""
    start = argon_cluster(40.0)
    simulation = Simulation(start, LennardJones(*ARGON), NoseHoover(5.0, 30.0, 0.3))
    simulation.run(300)
    assert np.abs(simulation.state.system.positions - start.positions).max() > 0.3
    assert np.abs(simulation.integrator.thermostat.frictions).min() > 1e-5
    simulation.state.system.velocities *= -1.0
    simulation.integrator.thermostat.frictions *= -1.0
    simulation.run(300)
    assert np.abs(simulation.state.system.positions - start.positions).max() < 1e-8
    assert np.abs(simulation.integrator.thermostat.frictions).max() < 1e-10


def test_order_of_nose_hoover() -> None:
    """The conserved quantity fluctuates by Δt², the same 2 ps from the same start, and far less than the energy."""
    simulation = Simulation(argon_cluster(60.0), LennardJones(*ARGON), NoseHoover(4.0, 30.0, 0.2))
    simulation.run(400)
    start = simulation.state.system.copy()
    timesteps, fluctuations = np.array([2.5, 5.0, 10.0, 20.0]), []
    for dt in timesteps:
        simulation = Simulation(start, LennardJones(*ARGON), NoseHoover(dt, 30.0, 0.2))
        conserved, energy = [], []
        for _ in range(200):
            simulation.run(round(20.0 / dt))
            conserved.append(simulation.conserved)
            energy.append(simulation.state.result.energy + simulation.state.kinetic_energy)
        fluctuations.append(np.std(conserved))
        assert np.std(energy) > 10.0 * np.std(conserved)
    assert np.polyfit(np.log(timesteps), np.log(fluctuations), 1)[0] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["verlet", "bussi", "nose-hoover", "langevin"])
def test_no_drift_in_quartic_wells(name: str) -> None:
    """64 anharmonic oscillators, ω Δt near 0.003: the standard error is 1e-5 kT/ns/dof and the drift within two of them."""
    k = 39.948 * (1.5e-4) ** 2 / ACCELERATION
    rng = np.random.default_rng(8)
    width = np.sqrt(KT / k)
    make = {
        "verlet": lambda: VelocityVerlet(20.0, momentum="none"),
        "bussi": lambda: Bussi(20.0, T, 20.0, momentum="none"),
        "nose-hoover": lambda: NoseHoover(20.0, T, 5.0, momentum="none"),
        "langevin": lambda: Langevin(20.0, T, 0.05, momentum="none"),
    }
    simulation = Simulation(
        atoms(rng.normal(size=(64, 3)) * 0.7 * width, masses=39.948),
        QuarticWells(k, k / width**2),
        make[name](),
        rng=rng,
        limits=NO_LIMITS,
    )
    simulation.draw_velocities(T, momentum="none")
    times, conserved = [], []
    for _ in range(2000):
        simulation.run(10)
        times.append(simulation.state.time_fs)
        conserved.append(simulation.conserved)
    drift = measure_drift(times, conserved, T, 192, random_walk=name in ("bussi", "langevin"))
    print(f"{name}: {drift}")
    assert drift.error < 1e-5
    assert abs(drift.slope) < 2.0 * drift.error


# ---- pressure ---------------------------------------------------------------------------------------------------------


def _gas(n: int, edge: float, *, tilt: float = 0.0, seed: int = 0):
    system = atoms(np.random.default_rng(seed).uniform(0.0, edge, (n, 3)))
    system.cell = np.eye(3) * edge
    system.cell[1, 0], system.cell[2, 1] = tilt * edge, -tilt * edge
    system.pbc[:] = True
    return system


def _barostatted(coupling: str, pressure: float, *, time_ps: float, dt: float = 50.0, momentum: str = "linear"):
    barostat = StochasticCellRescaling(
        pressure, coupling=coupling, time_ps=time_ps, compressibility_per_bar=1.0 / pressure
    )
    return Barostatted(Langevin(dt, T, 20.0, momentum=momentum), barostat, every=1)


def _volumes(simulation: Simulation, steps: int) -> tuple[float, float, np.ndarray]:
    """Mean volume, its standard error from blocks, and all cells."""
    cells: list[np.ndarray] = []
    simulation.run(steps, on_step=lambda s: cells.append(s.state.system.cell.copy()) if s.state.step % 5 == 0 else None)
    volumes = np.abs(np.linalg.det(np.array(cells)))
    blocks = volumes[: len(volumes) // 20 * 20].reshape(20, -1).mean(axis=1)
    return blocks.mean(), blocks.std(ddof=1) / np.sqrt(20), np.array(cells)


@pytest.mark.parametrize("momentum", ["linear", "none"])
def test_ideal_gas_volume(momentum: str) -> None:
    """⟨V⟩ = (n + 1) k_B T/P for 60 atoms, with the centre of mass at rest or not."""
    n, pressure = 60, 200.0
    expected = (n + 1) * KT / (pressure * BAR)
    simulation = Simulation(
        _gas(n, expected ** (1 / 3)),
        ElasticBox(0.0, 1.0),
        _barostatted("isotropic", pressure, time_ps=0.5, momentum=momentum),
        rng=4,
        limits=NO_LIMITS,
    )
    simulation.draw_velocities(T, momentum=momentum)
    mean, error, _ = _volumes(simulation, 10_000)
    assert error < 0.009 * expected
    assert abs(mean - expected) < 3.0 * error


@pytest.mark.parametrize("coupling", ["isotropic", "semi-isotropic", "anisotropic"])
def test_volume_of_few_atoms_in_every_coupling(coupling: str) -> None:
    """Twelve atoms in a triclinic cell: ⟨V⟩ = 13 k_B T/P; angles and what is coupled stay."""
    pressure = 200.0
    expected = 13.0 * KT / (pressure * BAR)
    start = _gas(12, expected ** (1 / 3), tilt=0.3)
    simulation = Simulation(start, _Free(), _barostatted(coupling, pressure, time_ps=6.0), rng=6, limits=NO_LIMITS)
    simulation.draw_velocities(T)
    simulation.run(0)
    before = simulation.conserved
    mean, error, cells = _volumes(simulation, 8_000)
    assert error < 0.08 * expected
    assert abs(mean - expected) < 3.0 * error
    assert abs(simulation.conserved - before) < KT
    lengths = np.linalg.norm(cells, axis=2)
    units = cells / lengths[:, :, None]
    np.testing.assert_allclose(units, np.broadcast_to(units[0], units.shape), atol=1e-11)
    same = [np.ptp(lengths[:, 0] / lengths[:, j]) < 1e-9 for j in (1, 2)]
    assert same == {"isotropic": [True, True], "semi-isotropic": [True, False], "anisotropic": [False, False]}[coupling]


class _Free(ElasticBox):
    """Free atoms in any cell."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)


def test_elastic_box_against_quadrature() -> None:
    """Each edge on its own, with a stress: means of V and of its square are those of the exact density
    V^(n+1) exp(−(P V + E)/k_B T) d ln L₁ d ln L₂ d ln L₃."""
    n, pressure, c, rest = 20, 200.0, 0.4, 12.0
    x = np.linspace(-1.6, 1.6, 121)
    a, b, d = np.meshgrid(x, x, x, indexing="ij")
    volume = rest**3 * np.exp(a + b + d)
    log_density = (n + 1) * np.log(volume) - (pressure * BAR * volume + 0.5 * c * (a * a + b * b + d * d)) / KT
    weight = np.exp(log_density - log_density.max())
    expected = (weight * volume).sum() / weight.sum()
    expected_stretch = (weight * a).sum() / weight.sum()
    expected_spread = (weight * a * a).sum() / weight.sum() - expected_stretch**2
    simulation = Simulation(
        _gas(n, rest), ElasticBox(c, rest), _barostatted("anisotropic", pressure, time_ps=3.0), rng=2, limits=NO_LIMITS
    )
    simulation.draw_velocities(T)
    simulation.run(500)
    mean, error, cells = _volumes(simulation, 9_000)
    assert abs(mean - expected) < 3.5 * error and error < 0.03 * expected
    stretch = np.log(cells[:, [0, 1, 2], [0, 1, 2]] / rest)
    blocks = stretch[:1800].reshape(20, -1, 3)
    errors = blocks.mean(axis=1).std(axis=0, ddof=1) / np.sqrt(20)
    assert (np.abs(stretch.mean(axis=0) - expected_stretch) < 3.5 * errors).all()
    assert stretch.var(axis=0).mean() == pytest.approx(expected_spread, rel=0.3)


def test_pressure_pair() -> None:
    """physical_validation: volumes at two pressures differ by the Boltzmann factor of P V."""
    runs = []
    for pressure, seed in ((200.0, 1), (240.0, 2)):
        edge = (61 * KT / (pressure * BAR)) ** (1 / 3)
        simulation = Simulation(
            _gas(60, edge, seed=seed),
            ElasticBox(0.0, 1.0),
            _barostatted("isotropic", pressure, time_ps=0.5),
            rng=seed,
            limits=NO_LIMITS,
        )
        simulation.draw_velocities(T)
        _, _, cells = _volumes(simulation, 7_500)
        volumes = np.abs(np.linalg.det(cells))[::4]
        nothing = np.zeros_like(volumes)
        observables = {name: nothing for name in ("kinetic_energy", "potential_energy", "total_energy")}
        observables |= {"volume": volumes, "pressure": np.full_like(volumes, pressure)}
        runs.append(_data("NPT", 60, 3, observables, pressure=pressure, temperature=T))
    quantiles = physical_validation.ensemble.check(*runs, total_energy=False, verbosity=0, bootstrap_seed=1)
    assert max(map(abs, quantiles)) < 3


# ---- ramps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THERMOSTATS)
def test_temperature_follows_a_ramp(name: str) -> None:
    simulation = _oscillators(400, 2, 100.0)
    simulation.set_stage(THERMOSTATS[name](5.0, Ramp(100.0, 500.0, 4000)))
    means, targets = [], []
    for _ in range(8):
        values: list[float] = []
        simulation.run(500, on_step=lambda s, v=values: v.append(s.temperature))
        means.append(np.mean(values))
        targets.append(simulation.integrator.thermostat.temperature_K)
    np.testing.assert_allclose(targets, 100.0 + 50.0 * np.arange(1, 9), atol=0.1)
    np.testing.assert_allclose(means[1:], np.array(targets[1:]) - 25.0, rtol=0.12)


def test_pressure_follows_a_ramp() -> None:
    """Free atoms squeezed from 100 to 400 bar: a quarter of the volume."""
    n = 200
    edge = ((n + 1) * KT / (100.0 * BAR)) ** (1 / 3)
    barostat = StochasticCellRescaling(100.0, time_ps=2.0, compressibility_per_bar=1.0 / 200.0)
    integrator = Barostatted(Langevin(50.0, T, 20.0), barostat, every=2, pressure=Ramp(100.0, 400.0, 4000))
    simulation = Simulation(_gas(n, edge), ElasticBox(0.0, 1.0), integrator, rng=2, limits=NO_LIMITS)
    simulation.draw_velocities(T)
    start = simulation.state.system.volume
    simulation.run(4000)
    assert barostat.pressure_bar == pytest.approx(400.0, abs=0.1)
    simulation.run(500)
    volumes = []
    for _ in range(100):
        simulation.run(10)
        volumes.append(simulation.state.system.volume)
    assert np.mean(volumes) == pytest.approx(start / 4.0, rel=0.05)
