"""The loop: reports, stops, failures, and continuation bit for bit."""

import warnings

import numpy as np
import pytest
from analytic_potentials import ARGON, Analytic, LennardJones, Remembering, Wells, argon_cluster, atoms

from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Bussi, Langevin, NoseHoover, Thermostatted, VelocityVerlet
from polmd.dynamics.minimize import Fire
from polmd.dynamics.ramp import Ramp
from polmd.dynamics.simulation import BlowUpError, Limits, Simulation
from polmd.dynamics.state import Potential
from polmd.dynamics.thermostats import OrnsteinUhlenbeck
from polmd.errors import InputError, SimulationError
from polmd.output.checkpoint import read_checkpoint, write_checkpoint
from polmd.output.reporter import Reporter


class Recorder:
    """A reporter that keeps every step's bits."""

    def __init__(self, every=1):
        self.every = every
        self.lines = []
        self.infos = []
        self.closed = 0

    def report(self, state, info):
        self.lines.append(
            (state.step, state.time_fs, state.result.energy, info.conserved, state.system.positions.tobytes())
        )
        self.infos.append(info)

    def position(self):
        return {"lines": len(self.lines)}

    def rewind(self, position):
        del self.lines[position["lines"] :]

    def close(self):
        self.closed += 1


def _make(integrator, *reporters, seed=3, **options):
    system = argon_cluster(40.0)
    if integrator.changes_cell:  # a cluster with vacuum around it
        system.cell, system.pbc = 20.0 * np.eye(3), np.ones(3, dtype=bool)
    return Simulation(system, Remembering(*ARGON), integrator, rng=seed, reporters=reporters, **options)


def _bits(simulation):
    state = simulation.state
    return (
        state.step,
        state.time_fs,
        state.result.energy,
        state.result.forces.tobytes(),
        state.system.positions.tobytes(),
        state.system.velocities.tobytes(),
        state.system.cell.tobytes(),
        simulation.conserved,
        repr(state.rng.bit_generator.state),
    )


INTEGRATORS = {
    "verlet": lambda: VelocityVerlet(4.1),
    "langevin": lambda: Langevin(4.1, 40.0, 2.0),
    "langevin-none": lambda: Langevin(4.1, 40.0, 2.0, momentum="none"),
    "bussi": lambda: Bussi(4.1, 40.0, 0.1),
    "nose-hoover": lambda: NoseHoover(4.1, Ramp(40.0, 60.0, 50), 0.1),
    "langevin-ramp": lambda: Langevin(4.1, Ramp(40.0, 60.0, 50), 2.0),
    "npt": lambda: Barostatted(
        Bussi(4.1, 40.0, 0.1), StochasticCellRescaling(1.0), every=4, pressure=Ramp(1.0, 9.0, 50)
    ),
    "npt-anisotropic": lambda: Barostatted(
        NoseHoover(4.1, 40.0, 0.1), StochasticCellRescaling(1.0, coupling="anisotropic"), every=3
    ),
    "fire": lambda: Fire(1e-12),
}


def test_seams():
    assert isinstance(Remembering(*ARGON), Potential)
    assert isinstance(Recorder(), Reporter)


# ---- continuation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [14, 31])  # at a reported step, and between
@pytest.mark.parametrize("name", INTEGRATORS)
def test_stop_and_restore_is_bitwise(name, stop, tmp_path):
    whole_lines, part_lines = Recorder(7), Recorder(7)
    whole = _make(INTEGRATORS[name](), whole_lines)
    assert whole.run(60) == 60

    first = _make(INTEGRATORS[name](), part_lines)
    first.run(stop)
    write_checkpoint(tmp_path / "c", first.checkpoint_content())
    first.run(11)  # what follows the checkpoint is forgotten
    resumed = _make(INTEGRATORS[name](), part_lines, seed=999)
    resumed.restore(read_checkpoint(tmp_path / "c").content)
    resumed.run(60 - stop)

    assert _bits(resumed) == _bits(whole)
    assert part_lines.lines == whole_lines.lines
    assert [line[0] for line in whole_lines.lines] == list(range(0, 60, 7))


def test_memory_of_the_potential_matters():
    """Without the potential's state the bits would differ: the test above can fail."""
    first = _make(VelocityVerlet(4.1))
    first.run(23)
    content = first.checkpoint_content()
    content["potential"] = {"built": content["system"]["positions"]}
    other = _make(VelocityVerlet(4.1))
    with pytest.warns(UserWarning, match="not bit for bit"):
        other.restore(content)


def test_pieces_equal_whole():
    whole, pieces = _make(Langevin(0.1, 40.0, 2.0)), _make(Langevin(0.1, 40.0, 2.0))
    whole.run(50)
    for n in (1, 2, 0, 30, 17):
        pieces.run(n)
    assert _bits(pieces) == _bits(whole)
    assert whole.state.time_fs == 50 * 0.1  # sum of fifty 0.1 is 4.999999999999998


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generator_continues(bits, tmp_path):
    def make():
        return _make(Langevin(4.1, 40.0, 2.0), seed=np.random.Generator(getattr(np.random, bits)(4)))

    whole, first, resumed = make(), make(), make()
    whole.run(12)
    first.run(5)
    write_checkpoint(tmp_path / "c", first.checkpoint_content())
    resumed.restore(read_checkpoint(tmp_path / "c").content)
    resumed.run(7)
    assert _bits(resumed) == _bits(whole)


def test_seeds():
    runs = []
    for seed in (1, 1, 2):
        simulation = _make(Langevin(4.1, 40.0, 2.0), seed=seed)
        simulation.draw_velocities(40.0)
        simulation.run(20)
        runs.append(_bits(simulation))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_stages_continue_bitwise(tmp_path):
    """minimise → nvt → nve in one simulation, stopped in nvt; time counts dynamics only, steps count all."""

    def stages(simulation, start=0):
        lengths = (9, 20, 15)
        makers = (lambda: Fire(1e-9), lambda: Langevin(2.3, 30.0, 5.0), lambda: VelocityVerlet(1.7))
        for index in range(start, 3):
            if index != start or start == 0:
                simulation.set_stage(makers[index](), f"stage{index}", index)
                if index == 1:
                    simulation.draw_velocities(30.0)
            simulation.run(lengths[index] - simulation.stage_step)

    whole, first = _make(VelocityVerlet(1.0)), _make(VelocityVerlet(1.0))
    stages(whole)
    first.set_stage(Fire(1e-9), "stage0", 0)
    first.run(9)
    first.set_stage(Langevin(2.3, 30.0, 5.0), "stage1", 1)
    first.draw_velocities(30.0)
    first.run(13)
    resumed = _make(Langevin(2.3, 30.0, 5.0))
    write_checkpoint(tmp_path / "c", first.checkpoint_content())
    resumed.restore(read_checkpoint(tmp_path / "c").content)
    assert (resumed.stage, resumed.stage_index, resumed.stage_step) == ("stage1", 1, 13)
    stages(resumed, start=1)
    assert _bits(resumed) == _bits(whole)
    assert whole.state.step == 44
    assert whole.state.time_fs == 20 * 2.3 + 15 * 1.7


def test_a_checkpoint_of_another_run_is_refused():
    first = _make(VelocityVerlet(4.1), Recorder())
    first.run(3)
    content = first.checkpoint_content()
    with pytest.raises(InputError, match="numbers"):
        Simulation(atoms(np.eye(3)), LennardJones(*ARGON), VelocityVerlet(4.1)).restore(content)
    with pytest.raises(InputError, match="VelocityVerlet"):
        _make(Langevin(4.1, 40.0, 2.0), Recorder()).restore(content)
    with pytest.raises(InputError, match="another potential"):
        system = argon_cluster(40.0)
        Simulation(system, Remembering(0.0104, 3.405), VelocityVerlet(4.1), reporters=[Recorder()]).restore(content)
    with pytest.raises(InputError, match="1-Recorder"):
        _make(VelocityVerlet(4.1), Recorder(), Recorder()).restore(content)
    with pytest.raises(InputError, match="generator"):
        seed = np.random.Generator(np.random.Philox(1))
        _make(VelocityVerlet(4.1), Recorder(), seed=seed).restore(content)


# ---- reports ----------------------------------------------------------------------------------------------------------


def test_reports_once_at_multiples_from_step_zero():
    one, five = Recorder(1), Recorder(5)
    simulation = _make(VelocityVerlet(4.1), one, five)
    simulation.run(0)
    simulation.run(7)
    simulation.run(3)
    assert [line[0] for line in one.lines] == list(range(11))
    assert [line[0] for line in five.lines] == [0, 5, 10]
    assert five.lines[1][1] == 5 * 4.1
    info = one.infos[-1]
    assert info.degrees_of_freedom == 36
    assert info.conserved == simulation.state.result.energy + simulation.state.kinetic_energy
    assert info.temperature == simulation.temperature
    assert info.pressure is None


def test_pressure_of_an_ideal_gas():
    """p V = N k_B T with 3N degrees of freedom; stress is asked for only where it is reported."""
    asked = []

    class Nothing(Wells):
        def compute(self, system, *, stress=False):
            asked.append(stress)
            return Analytic(0.0, np.zeros((len(system), 3)), np.zeros((3, 3)) if stress else None)

    system = atoms(np.zeros((50, 3)))
    system.cell[:], system.pbc[:] = 20.0 * np.eye(3), True
    recorder = Recorder(3)
    simulation = Simulation(
        system, Nothing(0.0), VelocityVerlet(1.0, momentum="none"), rng=0, reporters=[recorder], pressure=True
    )
    simulation.draw_velocities(300.0, momentum="none", exact=True)
    simulation.run(4)
    assert asked == [True, False, False, True, False]
    assert recorder.infos[1].pressure == pytest.approx(50 * 8.617333262e-5 * 300.0 / 8000.0, rel=1e-9)


def test_closing():
    class Broken(Recorder):
        def close(self):
            super().close()
            raise OSError("disk full")

    recorders = Broken(), Recorder()
    with pytest.raises(OSError, match="disk full"), _make(VelocityVerlet(4.1), *recorders) as simulation:
        simulation.run(1)
    assert [r.closed for r in recorders] == [1, 1]
    recorders = Broken(), Recorder()
    with pytest.raises(ValueError, match="user") as caught, _make(VelocityVerlet(4.1), *recorders):
        raise ValueError("user")
    assert [r.closed for r in recorders] == [1, 1]
    assert "disk full" in caught.value.__notes__[0]


# ---- stops ------------------------------------------------------------------------------------------------------------


def test_stop_finishes_the_step_and_loses_nothing():
    recorder = Recorder()
    simulation = _make(VelocityVerlet(4.1), recorder)

    def stop(current):
        if current.state.step == 4:
            current.request_stop()

    assert simulation.run(10, on_step=stop) == 4
    assert not simulation.stop_requested
    assert simulation.run(6) == 6
    whole = _make(VelocityVerlet(4.1))
    whole.run(10)
    assert _bits(simulation) == _bits(whole)
    assert [line[0] for line in recorder.lines] == list(range(11))
    simulation.request_stop()  # between runs: the next one does not start
    assert simulation.run(5) == 0
    assert simulation.run(5) == 5


# ---- failures ---------------------------------------------------------------------------------------------------------


class Failing(LennardJones):
    """Does something else at the k-th call."""

    def __init__(self, at, what):
        super().__init__(*ARGON)
        self.at, self.what, self.calls = at, what, 0

    def compute(self, system, *, stress=False):
        result = super().compute(system)
        self.calls += 1
        return self.what(result) if self.calls == self.at + 1 else result


def _nan_force(result):
    result.forces[7, 1] = np.nan
    return result


def _infinite_force(result):
    result.forces[7, 1] = -np.inf
    return result


def _huge_force(result):
    result.forces[7, 1] = 2000.0
    return result


def _nan_energy(result):
    result.energy = float("nan")
    return result


def _no_memory(result):
    raise MemoryError


def _interrupt(result):
    raise KeyboardInterrupt


@pytest.mark.parametrize("integrator", ["verlet", "langevin", "fire"])
@pytest.mark.parametrize(
    ("what", "error", "guilty"),
    [
        (_nan_force, BlowUpError, [7]),
        (_infinite_force, BlowUpError, [7]),
        (_nan_energy, BlowUpError, []),
        (_no_memory, MemoryError, None),
        (_interrupt, KeyboardInterrupt, None),
    ],
)
def test_a_failed_step_is_undone(integrator, what, error, guilty):
    def make(potential):
        return Simulation(argon_cluster(40.0), potential, INTEGRATORS[integrator](), rng=3, reporters=[Recorder()])

    good, simulation = make(LennardJones(*ARGON)), make(Failing(6, what))
    good.run(5)
    with pytest.raises(error) as caught:
        simulation.run(20)
    assert _bits(simulation) == _bits(good)
    assert [line[0] for line in simulation.reporters[0].lines] == list(range(6))
    if guilty is not None:
        assert caught.value.step == 6
        assert set(guilty) <= set(caught.value.atoms)
        assert str(caught.value).startswith("step 6: ")
        assert ("7 (Ar: inf)" in str(caught.value)) == bool(guilty)
        assert not np.array_equal(caught.value.system.positions, simulation.state.system.positions)
    simulation.run(3)  # and it can go on
    good.run(3)
    assert _bits(simulation) == _bits(good)


def test_limits():
    with pytest.raises(BlowUpError, match=r"force in eV/Å beyond 1e\+03 on atoms 7 \(Ar: 2e\+03\)") as caught:
        Simulation(argon_cluster(40.0), Failing(4, _huge_force), VelocityVerlet(0.1)).run(20)
    assert (caught.value.step, caught.value.atoms[0]) == (4, 7)
    simulation = _make(VelocityVerlet(4.1), limits=Limits(max_force_eV_per_A=1e-4))
    with pytest.raises(SimulationError, match="step 0: force"):
        simulation.run(1)
    simulation = _make(VelocityVerlet(4.1), limits=Limits(max_displacement_A=0.5))
    simulation.state.system.velocities[5] = (0.0, 0.5, 0.0)
    with pytest.raises(SimulationError, match=r"move per step in Å beyond 0.5 on atoms 5 \(Ar: 2.05\)"):
        simulation.run(1)


def test_explosion_by_a_large_timestep():
    """ω Δt > 2 in a harmonic well doubles and doubles: caught at the first step whose move is too long."""
    k, mass = 30.0, 1.008  # ω = 0.536/fs
    system = atoms([[0.01, 0.0, 0.0]], number=1, masses=mass)
    simulation = Simulation(system, Wells(k), VelocityVerlet(5.0))
    with pytest.raises(BlowUpError, match="shorten the timestep") as caught:
        simulation.run(1000)
    assert simulation.state.step == caught.value.step - 1 < 20
    assert 5.0 * np.linalg.norm(simulation.state.system.velocities) <= 1.0
    assert 5.0 * np.linalg.norm(caught.value.system.velocities) > 1.0
    assert np.isfinite(simulation.state.system.positions).all()


def test_bad_starts_are_refused():
    for name in ("positions", "velocities"):
        for value in (np.nan, np.inf):
            system = argon_cluster()
            getattr(system, name)[4, 0] = value
            with pytest.raises(InputError, match=f"{name} of atoms 4 "):
                Simulation(system, LennardJones(*ARGON), VelocityVerlet(1.0))
    system = argon_cluster()
    system.masses[2] = 0.0
    with pytest.raises(InputError, match="masses of atoms 2 "):
        Simulation(system, LennardJones(*ARGON), VelocityVerlet(1.0))
    with pytest.raises(InputError, match="no atoms"):
        Simulation(atoms(np.zeros((0, 3))), LennardJones(*ARGON), VelocityVerlet(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BlowUpError, match="step 0: the energy is nan"):
            Simulation(atoms(np.zeros((2, 3))), LennardJones(*ARGON), VelocityVerlet(1.0)).run(1)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: VelocityVerlet(0.0), "timestep_fs"),
        (lambda: Langevin(np.nan, 300.0, 1.0), "timestep_fs"),
        (lambda: Langevin(1.0, -300.0, 1.0), "temperature_K"),
        (lambda: Langevin(1.0, 300.0, 0.0), "friction_per_ps"),
        (lambda: Langevin(1.0, 300.0, 1.0, momentum="linear+angular"), "momentum"),
        (lambda: VelocityVerlet(1.0, momentum="all"), "momentum"),
    ],
)
def test_bad_arguments_are_refused(make, key):
    with pytest.raises(InputError, match=key):
        make()


# ---- interactive use --------------------------------------------------------------------------------------------------


def test_forces_follow_positions_set_by_the_user():
    simulation = _make(VelocityVerlet(1.0))
    simulation.run(2)
    simulation.state.system.positions[0] += 0.3
    simulation.run(0)
    assert simulation.state.result.energy == Remembering(*ARGON).compute(simulation.state.system).energy


def test_the_callers_system_is_left_alone():
    system = argon_cluster(40.0)
    before = system.positions.copy()
    simulation = Simulation(system, LennardJones(*ARGON), VelocityVerlet(4.1))
    simulation.run(5)
    np.testing.assert_array_equal(system.positions, before)


def test_any_thermostat_fits():
    langevin, composed = _make(Langevin(4.1, 40.0, 2.0)), _make(Thermostatted(4.1, OrnsteinUhlenbeck(40.0, 2.0)))
    langevin.run(10)
    composed.run(10)
    assert _bits(langevin) == _bits(composed)
