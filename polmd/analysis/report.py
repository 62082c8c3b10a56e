"""What ``polmd ir``, ``polmd raman`` and ``polmd analyze`` do: sources in, tables and figures out, lines to print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polmd.analysis import checks, infrared, motion, raman, tables
from polmd.analysis.frames import Frames, read_frames
from polmd.analysis.series import CARRIERS, Series, continuous, join, read_series
from polmd.analysis.spectrum import find_band
from polmd.born import Conventions
from polmd.errors import InputError, PolmdError
from polmd.model.file import Model, load_model
from polmd.output.response_file import RESPONSE, read_response

#: Ranges in which water has its bands, 1/cm, and the smoothing they are looked for with.
WATER_BANDS = {"libration": (300.0, 1100.0), "bend": (1400.0, 1900.0), "O-H stretch": (2800.0, 4000.0)}


@dataclass(frozen=True)
class Source:
    """Where samples come from, as on the command line.

    Attributes
    ----------
    paths : run directories, response files, trajectories
    stages : names of stages, or None
    model : name or path of the model that trajectories are evaluated with, or None
    conventions : of Born charges, for trajectories (a response file has its own)
    interval_fs, every : of trajectories, see :func:`polmd.analysis.frames.read_frames`
    workers : processes
    """

    paths: tuple[Path, ...]
    stages: tuple[str, ...] | None = None
    model: str | None = None
    conventions: Conventions = field(default_factory=Conventions)
    interval_fs: float | None = None
    every: int = 1
    workers: int | None = None

    def series(self, progress: Callable[[str, int], Callable[[int], None]]) -> Series:
        """All sources as one series; ``progress(name, total)`` gives what is told of frames done."""
        return join([self._one(path, progress) for path in self.paths])

    def _one(self, path: Path, progress: Callable[[str, int], Callable[[int], None]]) -> Series:
        from polmd.analysis.evaluate import evaluate

        streamed = path.name.endswith(RESPONSE) or (path.is_dir() and (path / RESPONSE).exists())
        if streamed and self.model is None:
            return read_series(path, self.stages)
        if self.model is None:
            raise InputError(
                f"{path} holds no {RESPONSE}: name the model that its frames are to be evaluated with (--model water)"
            )
        frames = self.frames(path)
        return evaluate(
            frames,
            load_model(self.model),
            self.conventions,
            workers=self.workers,
            progress=progress(path.name, len(frames)),
        )

    def frames(self, path: Path) -> Frames:
        """Frames of a trajectory."""
        return read_frames(path, interval_fs=self.interval_fs, every=self.every)

    def f_sum(self, temperature: float, most: int = 16) -> float | None:
        """∫ n·α dν̃ from Born charges of at most ``most`` frames, or None when there is no trajectory or model.

        Frames of short pieces (a start structure, an equilibration) are not representative and are left out.
        """
        from polmd.potential import MultipolePotential

        values = []
        for path in self.paths:
            try:
                model, conventions = self._model_of(path)
                frames = self.frames(path.parent if path.name == RESPONSE else path)
            except PolmdError:
                continue
            potential = MultipolePotential(model)
            _, pieces = continuous(frames.times, frames.stages)
            longest = max(p.stop - p.start for p in pieces)
            typical = np.concatenate([np.arange(p.start, p.stop) for p in pieces if 2 * (p.stop - p.start) > longest])
            for k in typical[np.unique(np.linspace(0, len(typical) - 1, most).astype(int))]:
                system = frames.systems[k]
                born = potential.response(system, conventions, born_charges=True).born
                assert born is not None
                values.append(infrared.f_sum(born.total, system.masses, system.volume))
        return float(np.mean(values)) if values else None

    def _model_of(self, path: Path) -> tuple[Model, Conventions]:
        """The model and conventions a source was made with: those asked for, or those a response file names."""
        if self.model is not None:
            return load_model(self.model), self.conventions
        header = read_response(path).header
        name, _, fingerprint = str(header["model"]).rpartition(" ")
        model = load_model(name)
        if model.fingerprint()[:16] != fingerprint:
            raise InputError(f"{path}: model '{name}' is another one now")
        return model, Conventions(header["displacement"], header["acoustic_sum_rule"], header["born_charge_scale"])


def infrared_report(
    source: Source,
    *,
    resolution: float,
    window: str,
    epsilon_infinity: float | None,
    temperature: float | None,
    quantum_correction: str,
    bands: dict[str, tuple[float, float]],
    smoothing: float,
    table: Path | None,
    plot: Path | None,
    reference: str | None,
    overwrite: bool,
    progress: Callable[[str, int], Callable[[int], None]],
) -> Iterator[str]:
    """Lines of ``polmd ir``; writes the table and the plot."""
    from polmd.analysis.plots import plot_curves

    tables.check_free([table, plot], overwrite)
    series = source.series(progress)
    notes = [str(series)]
    yield notes[0]
    ir = infrared.infrared(
        series,
        resolution=resolution,
        window=window,
        epsilon_infinity=epsilon_infinity,
        temperature=temperature,
        quantum_correction=quantum_correction,
    )
    origin = "given" if epsilon_infinity is not None else "1 + χ of the model's polarisabilities"
    notes += [
        str(ir.cut),
        f"volume {ir.volume:.3f} Å³, temperature {ir.temperature:.2f} K, quantum correction {ir.quantum_correction}, "
        f"ε∞ {ir.epsilon_infinity:.4f} ({origin})",
        "n_alpha is n(ω)α(ω), Napierian, with one standard error; contributions add up to it",
    ]
    yield from notes[1:3]
    for line in checks.check_lines(series, ir, resolution, source.f_sum(ir.temperature)):
        notes.append(line)
        yield line
    for name, (low, high) in bands.items():
        band = find_band(ir.n_alpha, low, high, smoothing)
        line = (
            f"band {name}: maximum at {band.position:.1f} ± {band.error:.1f} cm⁻¹, n·α {band.height:.0f} cm⁻¹, area "
            f"{band.area:.4g} cm⁻² from {low:g} to {high:g} cm⁻¹"
        )
        notes.append(line)
        yield line
    columns = {
        "wavenumber_per_cm": ir.wavenumbers,
        "n_alpha_per_cm": ir.n_alpha.mean,
        "n_alpha_error_per_cm": ir.n_alpha.error,
        "alpha_per_cm": ir.alpha,
        "n": ir.n,
        "epsilon_real": ir.epsilon_real,
        "epsilon_imaginary": ir.epsilon_imaginary,
    }
    parts = {f"{name.replace(' ', '_')}_n_alpha_per_cm": ir.carriers[name] for name in CARRIERS}
    parts |= {f"{name}_n_alpha_per_cm": values for name, values in ir.species.items()}
    if ir.other is not None:
        parts["other_displacement_n_alpha_per_cm"] = ir.other
    if table is not None:
        tables.write_table(table, columns | parts, notes)
        yield f"written: {table}"
    if plot is not None:
        curves: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"n·α": (ir.n_alpha.mean, ir.n_alpha.error)}
        curves |= {f"from {name}": (values, None) for name, values in ir.carriers.items()}
        plot_curves(
            plot,
            ir.wavenumbers,
            curves,
            ylabel="n(ω)α(ω) (cm⁻¹)",
            title=f"{ir.temperature:.0f} K, {series.conventions}, resolution {ir.cut.resolution:.3g} cm⁻¹",
            xlim=(0, min(4500.0, ir.cut.nyquist)),
            reference=reference,
        )
        yield f"written: {plot}"


def raman_report(
    source: Source,
    *,
    resolution: float,
    window: str,
    screening: str,
    prefactor: str,
    laser_nm: float,
    temperature: float | None,
    table: Path | None,
    plot: Path | None,
    top: float | None,
    overwrite: bool,
    progress: Callable[[str, int], Callable[[int], None]],
) -> Iterator[str]:
    """Lines of ``polmd raman``; writes the table and the plot."""
    from polmd.analysis.plots import plot_curves

    tables.check_free([table, plot], overwrite)
    series = source.series(progress)
    found = raman.raman(
        series,
        resolution=resolution,
        window=window,
        screening=screening,
        prefactor=prefactor,
        laser_nm=laser_nm,
        temperature=temperature,
    )
    laser = f", laser {laser_nm:g} nm" if prefactor != "none" else ""
    notes = [
        str(series),
        str(found.isotropic.cut),
        f"screening {found.screening}, prefactor {found.prefactor}{laser}; mean polarisability {found.polarizability:.4f} Å³ "
        f"of the cell; anisotropic is ⟨tr β β⟩/10 (VH), polarised is isotropic + 4/3 anisotropic",
    ]
    yield from notes
    iso, aniso = found.isotropic, found.anisotropic
    if table is not None:
        columns = {
            "wavenumber_per_cm": found.wavenumbers,
            "isotropic_A6_cm": iso.mean,
            "isotropic_error_A6_cm": iso.error,
            "anisotropic_A6_cm": aniso.mean,
            "anisotropic_error_A6_cm": aniso.error,
        }
        tables.write_table(table, columns, notes)
        yield f"written: {table}"
    if plot is not None:
        plot_curves(
            plot,
            found.wavenumbers,
            {"isotropic": (iso.mean, iso.error), "anisotropic": (aniso.mean, aniso.error)},
            ylabel="Raman spectrum (Å⁶ cm)",
            title=f"{series.temperature:.0f} K, screening {screening}, prefactor {prefactor}",
            xlim=(0, min(4500.0, iso.cut.nyquist)),
            top=top,
        )
        yield f"written: {plot}"


def vibrations_report(
    source: Source, *, resolution: float, window: str, table: Path | None, plot: Path | None, overwrite: bool
) -> Iterator[str]:
    """Lines of ``polmd analyze vdos``."""
    from polmd.analysis.plots import plot_curves

    tables.check_free([table, plot], overwrite)
    found = motion.vibrations(source.frames(_single(source.paths)), resolution=resolution, window=window)
    total = found.total
    area = float(np.trapezoid(total.mean, total.wavenumbers))
    notes = [
        str(total.cut),
        f"temperature {found.temperature:.2f} K; the integral, {area:.2f}, is the number of degrees of freedom",
    ]
    yield from notes
    columns = {"wavenumber_per_cm": total.wavenumbers, "vdos_cm": total.mean, "vdos_error_cm": total.error}
    columns |= {f"{name}_vdos_cm": values for name, values in found.species.items()}
    if table is not None:
        tables.write_table(table, columns, notes)
        yield f"written: {table}"
    if plot is not None:
        curves: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"total": (total.mean, total.error)}
        curves |= {name: (values, None) for name, values in found.species.items()}
        plot_curves(plot, total.wavenumbers, curves, ylabel="vibrational density of states (cm)")
        yield f"written: {plot}"


def diffusion_report(
    source: Source, *, fit: tuple[float, float] | None, blocks: int, table: Path | None, overwrite: bool
) -> Iterator[str]:
    """Lines of ``polmd analyze diffusion``."""
    tables.check_free([table], overwrite)
    found = motion.diffusion(source.frames(_single(source.paths)), fit=fit, blocks=blocks)
    notes = []
    for name, d in found.items():
        notes.append(
            f"{name}: D = {d.coefficient:.3e} ± {d.error:.1e} cm²/s, msd fitted from {d.fit[0]:.4g} to {d.fit[1]:.4g} fs; not "
            "corrected for the size of the box"
        )
    yield from notes
    if table is not None:
        first = next(iter(found.values()))
        tables.write_table(table, {"time_fs": first.times} | {f"{k}_msd_A2": d.msd for k, d in found.items()}, notes)
        yield f"written: {table}"


def distances_report(
    source: Source,
    *,
    cutoff: float,
    width: float,
    table: Path | None,
    plot: Path | None,
    top: float | None,
    overwrite: bool,
) -> Iterator[str]:
    """Lines of ``polmd analyze rdf``."""
    from polmd.analysis.plots import plot_curves

    tables.check_free([table, plot], overwrite)
    found = motion.distances(source.frames(_single(source.paths)), cutoff=cutoff, width=width)
    notes, columns = [], {"r_A": next(iter(found.values())).r}
    for name, d in found.items():
        k = int(np.argmax(d.g))
        notes.append(f"{name}: highest maximum {d.g[k]:.3f} ± {d.error[k]:.3f} at {d.r[k]:.3f} Å")
        columns |= {f"{name}_g": d.g, f"{name}_error": d.error, f"{name}_coordination": d.coordination}
    yield from notes
    if table is not None:
        tables.write_table(table, columns, notes)
        yield f"written: {table}"
    if plot is not None:
        curves = {name: (d.g, d.error) for name, d in found.items()}
        plot_curves(plot, columns["r_A"], curves, ylabel="g(r)", xlabel="r (Å)", top=top)
        yield f"written: {plot}"


def dielectric_report(
    source: Source,
    *,
    dipole: str,
    epsilon_infinity: float | None,
    temperature: float | None,
    blocks: int,
    progress: Callable[[str, int], Callable[[int], None]],
) -> Iterator[str]:
    """Lines of ``polmd analyze dielectric``."""
    series = source.series(progress)
    yield str(series)
    d = motion.dielectric(
        series, source=dipole, epsilon_infinity=epsilon_infinity, temperature=temperature, blocks=blocks
    )
    yield f"ε = {d.epsilon:.3f} ± {d.error:.3f} (ε∞ {d.epsilon_infinity:.4f}, {d.source}, {d.blocks} blocks)"
    mean = " ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(d.mean, d.mean_error, strict=True))
    yield f"check, mean dipole moment of the cell (zero when sampled long enough): {mean} e Å"


def _single(paths: Sequence[Path]) -> Path:
    if len(paths) != 1:
        raise InputError("this analysis takes one trajectory at a time")
    return paths[0]
