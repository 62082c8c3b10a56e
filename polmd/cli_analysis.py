"""Commands that analyse runs: ``polmd ir``, ``polmd raman`` and the ``polmd analyze`` family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from polmd.errors import InputError

analyze_app = typer.Typer(no_args_is_help=True, help="Vibrations, dielectric constant, diffusion, distances.")

Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Run directories (with response.h5), or trajectories: of polmd, extended XYZ, H5MD.", show_default=False
    ),
]
Trajectory = Annotated[
    Path, typer.Argument(help="Run directory or trajectory (polmd, extended XYZ, H5MD).", show_default=False)
]
Stages = Annotated[
    list[str] | None, typer.Option("--stage", help="Take this stage (repeat for more); default: constant energy.")
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Evaluate the frames of a trajectory with this model.", show_default=False)
]
Displacement = Annotated[str, typer.Option("--displacement", help="With --model: edge or phase.")]
SumRule = Annotated[bool, typer.Option("--sum-rule/--no-sum-rule", help="With --model: subtract the mean of Z*.")]
Scale = Annotated[float, typer.Option("--scale", help="With --model: factor of Z*.")]
Interval = Annotated[
    float | None, typer.Option("--interval-fs", help="Time between frames, where the file does not tell it.")
]
Every = Annotated[int, typer.Option("--every", min=1, help="Take every n-th frame of a trajectory.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")]
Resolution = Annotated[float, typer.Option("--resolution", help="Width of a sharp line, 1/cm.")]
Window = Annotated[str, typer.Option("--window", help="hann, blackman or boxcar.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="K; default: the mean kinetic temperature.")]
EpsilonInfinity = Annotated[
    float | None, typer.Option("--epsilon-infinity", help="ε∞; default: 1 + χ of the model's polarisabilities.")
]
Table = Annotated[Path | None, typer.Option("--out", help="Table to write: .csv or .h5.", show_default=False)]
Plot = Annotated[Path | None, typer.Option("--plot", help="Figure to write: .png, .svg, .pdf.", show_default=False)]
Top = Annotated[float | None, typer.Option(min=0.0, help="End of the figure's vertical axis.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ir)
    app.command()(raman)
    app.add_typer(analyze_app, name="analyze")


def ir(
    sources: Paths,
    stage: Stages = None,
    resolution: Resolution = 20.0,
    window: Window = "hann",
    epsilon_infinity: EpsilonInfinity = None,
    temperature: Temperature = None,
    quantum_correction: Annotated[
        str, typer.Option(help="harmonic (none needed), standard or schofield.")
    ] = "harmonic",
    band: Annotated[
        list[str] | None, typer.Option(help="Look for a maximum here, as name=low:high in 1/cm (repeat for more).")
    ] = None,
    smoothing: Annotated[float, typer.Option(help="Gaussian smoothing before maxima are looked for, 1/cm.")] = 15.0,
    reference: Annotated[
        str | None, typer.Option(help="Overlay: 'water' (Hale and Querry 1973), or a CSV file with two columns.")
    ] = None,
    out: Table = None,
    plot: Plot = None,
    model: ModelName = None,
    displacement: Displacement = "edge",
    sum_rule: SumRule = True,
    scale: Scale = 1.0,
    interval_fs: Interval = None,
    every: Every = 1,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Infrared spectrum n(ω)α(ω) in 1/cm, with error band and checks."""
    from polmd.analysis.report import infrared_report

    source = _source(sources, stage, model, displacement, sum_rule, scale, interval_fs, every, workers)
    with _progress() as progress:
        lines = infrared_report(
            source,
            resolution=resolution,
            window=window,
            epsilon_infinity=epsilon_infinity,
            temperature=temperature,
            quantum_correction=quantum_correction,
            bands=_bands(band, reference),
            smoothing=smoothing,
            table=out,
            plot=plot,
            reference=reference,
            overwrite=overwrite,
            progress=progress,
        )
        for line in lines:
            typer.echo(line)


def raman(
    sources: Paths,
    stage: Stages = None,
    resolution: Resolution = 20.0,
    window: Window = "hann",
    screening: Annotated[str, typer.Option(help="none or clausius-mossotti.")] = "none",
    prefactor: Annotated[str, typer.Option(help="none or harmonic (Stokes intensities).")] = "none",
    laser_nm: Annotated[float, typer.Option(min=1.0, help="Wavelength of the laser, for the prefactor.")] = 532.0,
    temperature: Temperature = None,
    out: Table = None,
    plot: Plot = None,
    top: Top = None,
    model: ModelName = None,
    interval_fs: Interval = None,
    every: Every = 1,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Isotropic and anisotropic Raman spectrum, with error bands."""
    from polmd.analysis.report import raman_report

    source = _source(sources, stage, model, "edge", True, 1.0, interval_fs, every, workers)
    with _progress() as progress:
        lines = raman_report(
            source,
            resolution=resolution,
            window=window,
            screening=screening,
            prefactor=prefactor,
            laser_nm=laser_nm,
            temperature=temperature,
            table=out,
            plot=plot,
            top=top,
            overwrite=overwrite,
            progress=progress,
        )
        for line in lines:
            typer.echo(line)


@analyze_app.command()
def vdos(
    trajectory: Trajectory,
    resolution: Resolution = 20.0,
    window: Window = "hann",
    out: Table = None,
    plot: Plot = None,
    interval_fs: Interval = None,
    every: Every = 1,
    overwrite: Overwrite = False,
) -> None:
    """Vibrational density of states."""
    from polmd.analysis.report import Source, vibrations_report

    source = Source((trajectory,), interval_fs=interval_fs, every=every)
    lines = vibrations_report(source, resolution=resolution, window=window, table=out, plot=plot, overwrite=overwrite)
    for line in lines:
        typer.echo(line)


@analyze_app.command()
def dielectric(
    sources: Paths,
    stage: Stages = None,
    dipole: Annotated[str, typer.Option(help="dipoles (sum of molecular dipoles) or current (∫J dt).")] = "dipoles",
    epsilon_infinity: EpsilonInfinity = None,
    temperature: Temperature = None,
    blocks: Annotated[int, typer.Option(min=2, help="Blocks of the jackknife.")] = 10,
    model: ModelName = None,
    displacement: Displacement = "edge",
    sum_rule: SumRule = True,
    scale: Scale = 1.0,
    interval_fs: Interval = None,
    every: Every = 1,
    workers: Workers = None,
) -> None:
    """Static dielectric constant from dipole fluctuations, with its error."""
    from polmd.analysis.report import dielectric_report

    source = _source(sources, stage, model, displacement, sum_rule, scale, interval_fs, every, workers)
    with _progress() as progress:
        lines = dielectric_report(
            source,
            dipole=dipole,
            epsilon_infinity=epsilon_infinity,
            temperature=temperature,
            blocks=blocks,
            progress=progress,
        )
        for line in lines:
            typer.echo(line)


@analyze_app.command()
def diffusion(
    trajectory: Trajectory,
    fit_from: Annotated[float | None, typer.Option(help="Start of the fit, fs.")] = None,
    fit_to: Annotated[float | None, typer.Option(help="End of the fit, fs.")] = None,
    blocks: Annotated[int, typer.Option(min=2, help="Blocks of one continuous piece.")] = 4,
    out: Table = None,
    interval_fs: Interval = None,
    every: Every = 1,
    overwrite: Overwrite = False,
) -> None:
    """Diffusion coefficients from mean square displacements."""
    from polmd.analysis.report import Source, diffusion_report

    if (fit_from is None) != (fit_to is None):
        raise InputError("give both --fit-from and --fit-to, or neither")
    fit = None if fit_from is None or fit_to is None else (fit_from, fit_to)
    source = Source((trajectory,), interval_fs=interval_fs, every=every)
    for line in diffusion_report(source, fit=fit, blocks=blocks, table=out, overwrite=overwrite):
        typer.echo(line)


@analyze_app.command()
def rdf(
    trajectory: Trajectory,
    cutoff: Annotated[float, typer.Option(min=0.1, help="Largest distance, Å.")] = 6.0,
    width: Annotated[float, typer.Option(min=1e-4, help="Width of a bin, Å.")] = 0.02,
    out: Table = None,
    plot: Plot = None,
    top: Top = None,
    every: Every = 1,
    overwrite: Overwrite = False,
) -> None:
    """Radial distribution functions of all pairs of elements."""
    from polmd.analysis.report import Source, distances_report

    source = Source((trajectory,), interval_fs=1.0, every=every)  # times do not matter here
    for line in distances_report(
        source, cutoff=cutoff, width=width, table=out, plot=plot, top=top, overwrite=overwrite
    ):
        typer.echo(line)


def _source(paths, stages, model, displacement, sum_rule, scale, interval_fs, every, workers):  # type: ignore[no-untyped-def]
    from polmd.analysis.report import Source
    from polmd.born import Conventions

    return Source(
        tuple(paths),
        tuple(stages) if stages else None,
        model,
        Conventions(displacement, sum_rule, scale),
        interval_fs,
        every,
        workers,
    )


def _bands(given: list[str] | None, reference: str | None) -> dict[str, tuple[float, float]]:
    from polmd.analysis.report import WATER_BANDS

    if not given:
        return dict(WATER_BANDS) if reference == "water" else {}
    bands = {}
    for text in given:
        name, _, limits = text.rpartition("=")
        low, _, high = limits.partition(":")
        try:
            bands[name or limits] = (float(low), float(high))
        except ValueError:
            raise InputError(f"--band {text!r}: write name=low:high, for instance bend=1400:1900") from None
    return bands


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Progress bars on standard error, one per trajectory that is evaluated."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def start(name: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=total)
            return lambda done: bars.advance(task, done)

        yield start
