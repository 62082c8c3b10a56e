"""The command line: commands, nothing else. Every command calls what the Python API offers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from polmd import cli_analysis
from polmd.errors import PolmdError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Molecular dynamics with machine-learned polarizable atomic multipoles.",
)
models_app = typer.Typer(help="Bundled models, and what a model file holds.", invoke_without_command=True)
build_app = typer.Typer(no_args_is_help=True, help="Build start structures.")
app.add_typer(models_app, name="models")
app.add_typer(build_app, name="build")
cli_analysis.register(app)

Input = Annotated[Path, typer.Argument(help="input.toml", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory, in place of the one in the input.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="At most this many steps in every stage.")]
Device = Annotated[
    Literal["cpu", "cuda", "auto"] | None, typer.Option("--device", help="Where to compute, in place of model.device.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def main() -> None:
    """Entry point: errors of polmd become one message and exit code 1."""
    try:
        app()
    except PolmdError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


@app.command()
def run(
    input_file: Input,
    out: Out = None,
    steps: Steps = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a directory that holds a run.")] = False,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", min=0.0, help="Wall-clock limit, in place of limits.max_hours.")
    ] = None,
    replica: Annotated[int | None, typer.Option("--replica", min=0, help="Run only this replica, from 0.")] = None,
    device: Device = None,
) -> None:
    """Run the stages of an input.

    Exit code 0: finished; 1: an error, said on standard error; 75: stopped by SIGINT, SIGTERM or SIGUSR1 after a
    complete step, or by the wall-clock limit, with a checkpoint: continue with --resume. A second signal undoes the step
    under way first (in constant-energy stages up to 100 steps, a tenth of a second); a third one exits at once.
    """
    from rich.console import Console

    from polmd.run import run as run_input

    config = _config(input_file, out, steps)
    if max_hours is not None:
        config = config.with_max_hours(max_hours)
    if device is not None:
        config = config.with_device(device)
    console = Console(highlight=False, soft_wrap=True)
    raise typer.Exit(run_input(config, console, resume=resume, overwrite=overwrite, replica=replica))


@app.command()
def check(input_file: Input, out: Out = None, steps: Steps = None, device: Device = None) -> None:
    """Do everything but the run: atoms, model, first energy, memory, expected speed. Writes nothing."""
    from polmd.check import check_run

    config = _config(input_file, out, steps)
    for line in check_run(config if device is None else config.with_device(device)):
        typer.echo(line)


@app.command()
def export(
    run_directory: Annotated[Path, typer.Argument(help="run directory", show_default=False)],
    file: Annotated[Path, typer.Argument(help="file to write: .h5 (H5MD) or extended XYZ", show_default=False)],
    every: Annotated[int, typer.Option(min=1, help="Take every n-th frame.")] = 1,
    wrap: Annotated[bool, typer.Option("--wrap", help="Put atoms into the cell.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Join the trajectory segments of a run in one file, H5MD or extended XYZ."""
    from polmd.output.export import export as export_run

    count = export_run(run_directory, file, every=every, wrap=wrap, overwrite=overwrite)
    typer.echo(f"{count} frames written to {file}")


@app.command()
def verify(
    run_directory: Annotated[Path, typer.Argument(help="run directory", show_default=False)],
) -> None:
    """Check every file of a run and say what is usable; changes nothing. Exit code 1 when something is damaged."""
    from polmd.output.verify import verify as verify_run

    verdicts = verify_run(run_directory)
    for verdict in verdicts:
        for line in verdict.lines():
            typer.echo(line)
    raise typer.Exit(0 if all(verdict.ok for verdict in verdicts) else 1)


@app.command()
def convert(
    weights: Annotated[
        Path,
        typer.Argument(
            help="PyTorch checkpoint of a CACE + LES model (.pth), plain arrays (.npz), model file or bundled name",
            show_default=False,
        ),
    ],
    model_file: Annotated[Path, typer.Argument(help="file to write: model file (.h5) or .npz", show_default=False)],
    to: Annotated[
        Literal["h5", "npz"] | None, typer.Option(help="Format to write; by default the suffix says it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    atomic_energies: Annotated[
        str | None,
        typer.Option(help="Constant energies in eV that the weights leave out: H=-13.6,O=-432.1 or a JSON file."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, kept in the file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn trained weights into a model file, or a model into plain arrays. No code in the file is ever executed."""
    from ase.data import chemical_symbols

    from polmd.model.file import Model
    from polmd.model.importers import parse_atomic_energies, read_weights
    from polmd.model.importers.npz import write_npz

    energies = parse_atomic_energies(atomic_energies) if atomic_energies is not None else None
    model = read_weights(weights, name=name, atomic_energies=energies)
    header = model.header
    changes = {} if header.provenance else {"provenance": f"converted from {weights.name}"}
    if licence is not None:
        changes["licence"] = licence
    model = Model(header.model_copy(update=changes), model.arrays, model.source)
    if to == "npz" or (to is None and model_file.suffix == ".npz"):
        write_npz(model, model_file, overwrite=overwrite)
    else:
        model.save(model_file, overwrite=overwrite)
    symbols = " ".join(chemical_symbols[z] for z in model.elements)
    typer.echo(f"{model_file}: model '{model.name}', {model.n_weights} weights, elements {symbols}")
    missing = [chemical_symbols[z] for z in model.elements if str(z) not in header.atomic_energies_eV]
    if missing:
        typer.echo(
            f"note: no atomic energies for {' '.join(missing)}: total energies are relative to them "
            "(--atomic-energies gives them)"
        )


@app.command("eval")
def evaluate(
    frames: Annotated[list[Path], typer.Argument(help="structure files, any format ASE knows", show_default=False)],
    model: Annotated[str, typer.Option(help="Model file or bundled name.")] = "water",
    out: Annotated[
        list[Path] | None,
        typer.Option(help="Results to write: .json, .h5, .csv or .xyz; may be given several times."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Directory for parity plots (PNG).")] = None,
    selection: Annotated[str, typer.Option("--frames", help="Frames of each file: a number or start:stop:step.")] = ":",
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="QUANTITY=KEY, the key of a label, or QUANTITY=none; quantities: energy, forces, stress, dipole, "
            "born_charges, polarizability."
        ),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Key that names the kind of a frame, or 'file'; errors are given for each kind.")
    ] = None,
    fit_energy_offsets: Annotated[
        bool, typer.Option("--fit-energy-offsets", help="Fit one energy per element before energies are compared.")
    ] = False,
    moments: Annotated[bool, typer.Option("--moments", help="Multipoles, dipole moment, polarisability.")] = False,
    born: Annotated[bool, typer.Option("--born", help="Born effective charges.")] = False,
    displacement: Annotated[
        Literal["edge", "phase"], typer.Option(help="Of Born charges: true vectors, or as published.")
    ] = "edge",
    acoustic_sum_rule: Annotated[
        bool, typer.Option(help="Subtract the mean of the Born charges over the atoms.")
    ] = True,
    born_charge_scale: Annotated[float, typer.Option(help="Factor of the Born charges.")] = 1.0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes; by default each frame is evaluated with all threads.")
    ] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate a model on structures: predictions, errors against labels, energy differences.

    Labels are found by name and shown; where several could be meant, --label decides. Exit code 1 when a frame could not
    be evaluated; the results hold the others.
    """
    from rich.console import Console
    from rich.progress import Progress

    from polmd.errors import InputError
    from polmd.evaluation import Settings, read_frames
    from polmd.evaluation import evaluate as run_evaluation
    from polmd.evaluation.plots import check_plots, write_parity_plots
    from polmd.evaluation.report import summary
    from polmd.evaluation.results import check_output, write_results
    from polmd.model.file import load_model

    labels = dict(part.partition("=")[::2] for part in label or [])
    if any(not key for key in labels.values()):
        raise InputError("--label takes QUANTITY=KEY, for example forces=REF_forces")
    for path in out or []:
        check_output(path, overwrite=overwrite)
    if plots is not None:
        check_plots(plots)
    loaded = load_model(model)
    structures = read_frames(frames, selection)
    settings = Settings(moments, born, displacement, acoustic_sum_rule, born_charge_scale)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=len(structures))
        result = run_evaluation(
            loaded,
            structures,
            settings,
            labels=labels,
            group_by=group_by,
            fit_energy_offsets=fit_energy_offsets,
            jobs=jobs,
            progress=lambda done: bar.update(task, completed=done),
        )
    for line in summary(result):
        typer.echo(line)
    for path in out or []:
        write_results(result, path, overwrite=overwrite)
        typer.echo(f"results written to {path}")
    if plots is not None:
        for path in write_parity_plots(result, plots, overwrite=overwrite):
            typer.echo(f"plot written to {path}")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def electrostatics(
    structure: Annotated[Path, typer.Argument(help="structure with multipoles as per-atom arrays", show_default=False)],
    frame: Annotated[int, typer.Option(help="Frame of the file; negative counts from the end.")] = -1,
    smearing: Annotated[str, typer.Option(help="gaussian, or point for multipoles without width.")] = "gaussian",
    sigma: Annotated[float, typer.Option(help="Width of the Gaussians, Å.")] = 1.0,
    dl: Annotated[float, typer.Option(help="Gaussians: the reciprocal sum runs over |k| ≤ 2π/dl, Å.")] = 2.0,
    method: Annotated[str, typer.Option(help="direct, mesh or auto.")] = "auto",
    tolerance: Annotated[float, typer.Option(help="Force error of the mesh.")] = 1e-5,
    out: Annotated[Path | None, typer.Option("--out", help="Write forces, potentials, … as extended XYZ.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Energy of charges, dipoles and quadrupoles that a structure file carries, with one linear-response step.

    Arrays: charges (e), dipoles (e Å), quadrupoles (e Å², nine numbers), charge_responses (e/V), polarizabilities (e Å²/V,
    one number or nine).
    """
    from ase.io import write

    from polmd.errors import OutputError
    from polmd.multipoles import evaluate, read_multipoles, with_results

    if out is not None and out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name or give --overwrite")
    atoms, moments = read_multipoles(structure, frame)
    result = evaluate(atoms, moments, smearing=smearing, sigma=sigma, dl=dl, method=method, tolerance=tolerance)
    typer.echo(f"{len(atoms)} atoms, {', '.join(moments)}, {'periodic' if atoms.pbc.any() else 'open boundaries'}")
    typer.echo(f"energy: {result.energy:.10f} eV")
    if out is not None:
        write(out, with_results(atoms, result), format="extxyz")
        typer.echo(f"written to {out}")


@app.command("info")
def system_info() -> None:
    """Show versions, processor, threads, and the devices that can be used."""
    from polmd.info import lines

    for line in lines():
        typer.echo(line)


@app.command()
def schema() -> None:
    """Print the reference of input.toml (Markdown)."""
    from polmd.config import schema_markdown

    typer.echo(schema_markdown())


@app.command()
def bench(
    cases: Annotated[
        Path | None, typer.Argument(help="file of cases, such as benchmarks/water.toml", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write.")] = None,
    only: Annotated[str | None, typer.Option("--only", help="Only cases whose name contains this.")] = None,
    device: Device = None,
    compile_report: Annotated[
        Path | None,
        typer.Option(
            "--compile-report",
            help="CSV file of what the compiler makes of every GPU kernel for sm_80 and sm_90; needs no GPU.",
        ),
    ] = None,
) -> None:
    """Measure polmd and, where they are installed, its peers: medians, ratios, versions, device."""
    from polmd.bench import load_cases, run_cases, write_csv
    from polmd.errors import InputError

    if compile_report is not None:
        from polmd.cuda.report import write_report

        for line in write_report(compile_report):
            typer.echo(line)
    if cases is None:
        if compile_report is None:
            raise InputError("give a file of cases, such as benchmarks/water.toml, or --compile-report")
        return
    rows = []
    for row in run_cases(load_cases(cases), cases.parent, only, device or "cpu"):
        rows.append(row)
        where = f"{row.threads} threads" if row.threads else row.device
        what = f"{row.case:28} {row.atoms:6} atoms  {row.program:22} {row.settings:18} {where}"
        figures = f"{row.median_ms:10.3f} ms  {row.note}" if row.median_ms == row.median_ms else row.note
        figures += f"  x {row.ratio:.2f}" if row.ratio == row.ratio else ""
        figures += f"  {row.memory_MiB:.0f} MiB" if row.memory_MiB == row.memory_MiB else ""
        typer.echo(f"{what}  {figures}  {row.stage}".rstrip())
        if out is not None:
            write_csv(rows, out)


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the bundled models."""
    if context.invoked_subcommand is not None:
        return
    from ase.data import chemical_symbols

    from polmd.model.file import bundled_models, load_model

    for name in bundled_models():
        model = load_model(name)
        symbols = " ".join(chemical_symbols[z] for z in model.elements)
        predicts = ", ".join(model.header.predicts) or "energies only"
        typer.echo(f"{name}: {symbols}; cutoff {model.cutoff:g} Å; {model.n_weights} weights; {predicts}")
        typer.echo(f"  {model.header.provenance} ({model.header.licence})")


@models_app.command()
def info(
    model: Annotated[str, typer.Argument(help="model file or bundled name", show_default=False)],
) -> None:
    """Describe a model: elements, architecture, electrostatics, energies, provenance, licence."""
    from polmd.model.card import model_card
    from polmd.model.file import load_model

    for line in model_card(load_model(model)):
        typer.echo(line)


@build_app.command()
def water(
    file: Annotated[Path, typer.Argument(help="structure file to write, any format ASE knows", show_default=False)],
    molecules: Annotated[int, typer.Option(min=1, help="Number of molecules.")] = 64,
    density_g_cm3: Annotated[float, typer.Option("--density", help="Density, g/cm³.")] = 0.997,
    seed: Annotated[int, typer.Option(help="Seed: the same seed gives the same atoms.")] = 0,
    open_boundaries: Annotated[bool, typer.Option("--open", help="A droplet without periodic cell.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Liquid water, molecules placed and relaxed by polmd."""
    from ase.io import write

    from polmd.errors import OutputError
    from polmd.structures import build_water

    if file.exists() and not overwrite:
        raise OutputError(f"{file} exists; choose another name or give --overwrite")
    system = build_water(molecules, density_g_cm3=density_g_cm3, seed=seed, periodic=not open_boundaries)
    write(file, system.to_ase())
    typer.echo(f"{len(system)} atoms written to {file}")


def _config(input_file: Path, out: Path | None, steps: int | None):  # type: ignore[no-untyped-def]
    """The checked input with the command line's changes; warnings go to standard error."""
    from polmd.config import load_config

    config, warnings = load_config(input_file, out)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    return config if steps is None else config.shortened(steps)
