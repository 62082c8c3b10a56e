"""The electrical response along a run, cut into pieces: what spectra are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from polmd.errors import InputError
from polmd.output.response_file import ResponseData, read_response
from polmd.units import INVERSE_VACUUM_PERMITTIVITY

#: What carries the current, in the order of its axis.
CARRIERS = ("charges", "permanent dipoles", "induced dipoles")


@dataclass(frozen=True)
class Series:
    """Samples at an even interval, in pieces that are continuous in time.

    Attributes
    ----------
    name : where they are from
    interval_fs : Δt
    pieces : the samples of each piece, as slices
    groups : names of the groups of moving atoms
    current : (N, groups, carriers, 3) e Å/fs
    other_charge : (N, groups, 3), the charges' part with the other displacement, or None
    polarization : (N, 3) e Å, Σ q̃ r + Σ (u + u^ind) in open boundaries, or None
    molecular : (N, 3) e Å, sum of molecular dipoles, or None
    polarizability : (N, 3, 3) e Å²/V, Σα, or None
    temperature : mean, K
    cells : (N, 3, 3) Å, zeros in open boundaries
    conventions : of Born charges, as printed
    scale : of Born charges
    frictions_per_ps : of the thermostats that acted, zero for none
    """

    name: str
    interval_fs: float
    pieces: tuple[slice, ...]
    groups: tuple[str, ...]
    current: np.ndarray
    other_charge: np.ndarray | None
    polarization: np.ndarray | None
    molecular: np.ndarray | None
    polarizability: np.ndarray | None
    temperature: float
    cells: np.ndarray
    conventions: str
    scale: float
    frictions_per_ps: tuple[float, ...]

    @property
    def lengths(self) -> list[int]:
        """Samples of each piece."""
        return [p.stop - p.start for p in self.pieces]

    @property
    def volume(self) -> float | None:
        """Mean volume, Å³; None in open boundaries."""
        volumes = np.abs(np.linalg.det(self.cells))
        return float(volumes.mean()) if len(volumes) and volumes.min() > 0 else None

    @property
    def susceptibility(self) -> float:
        """χ = ⟨Σ tr α⟩/(3 V ε0); zero without polarisabilities or volume."""
        if self.polarizability is None or self.volume is None:
            return 0.0
        mean = float(np.trace(self.polarizability, axis1=1, axis2=2).mean())
        return mean * INVERSE_VACUUM_PERMITTIVITY / (3.0 * self.volume)

    def cut(self, array: np.ndarray) -> list[np.ndarray]:
        """The pieces of an array over the samples."""
        return [array[p] for p in self.pieces]

    def __str__(self) -> str:
        picoseconds = sum(self.lengths) * self.interval_fs / 1000
        return (
            f"{self.name}: {picoseconds:.4g} ps in {len(self.pieces)} pieces, a sample every {self.interval_fs:g} fs, "
            f"{self.temperature:.1f} K; {self.conventions}"
        )


def continuous(times: np.ndarray, breaks: np.ndarray | None = None) -> tuple[float, tuple[slice, ...]]:
    """The interval (fs) of a series of times and its pieces: a new one wherever the interval changes or ``breaks``
    (one number per sample) does. Raises InputError for fewer than two samples."""
    times = np.asarray(times, dtype=float)
    if len(times) < 2:
        raise InputError(f"a time series needs two samples at least, there are {len(times)}")
    steps = np.diff(times)
    interval = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if interval <= 0:
        raise InputError("the times of the samples do not increase: give the interval between frames")
    new = np.abs(steps - interval) > 1e-4 * interval
    if breaks is not None:
        new |= np.diff(breaks) != 0
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(times)]
    return interval, tuple(slice(a, b) for a, b in pairwise(edges))


def read_series(path: str | Path, stages: Sequence[str] | None = None) -> Series:
    """The series of a run directory or its ``response.h5``.

    ``stages`` names the stages to take; None takes those at constant energy, or all when there is none.
    """
    return series_of(read_response(path), stages)


def series_of(data: ResponseData, stages: Sequence[str] | None = None) -> Series:
    """See :func:`read_series`."""
    names, kinds = list(data.header["stage_names"]), list(data.header["stage_kinds"])
    unknown = set(stages or ()) - set(names)
    if unknown:
        raise InputError(f"{data.path}: no stage {', '.join(sorted(unknown))}; stages: {', '.join(names)}")
    present = np.unique(data["stage"]).tolist()
    if stages is None:
        wanted = [k for k in present if kinds[k] == "nve"] or present
    else:
        wanted = [k for k in present if names[k] in stages]
    keep = np.isin(data["stage"], wanted)
    if keep.sum() < 2:
        raise InputError(f"{data.path} holds {int(keep.sum())} samples of the stages asked for: let the run go on")
    arrays = {k: v[keep] for k, v in data.arrays.items()}
    interval, pieces = continuous(arrays["time"], arrays["stage"])
    periodic = bool(data.header["periodic"])
    dipoles = arrays["polarization_permanent"] + arrays["polarization_induced"]
    rule = "subtracted" if data.header["acoustic_sum_rule"] else "kept"
    scale = float(data.header["born_charge_scale"])
    frictions = data.header["stage_frictions_per_ps"]
    return Series(
        name=str(data.path),
        interval_fs=interval,
        pieces=pieces,
        groups=tuple(data.header["groups"]),
        current=arrays["current"],
        other_charge=arrays["current_other"],
        polarization=None if periodic else scale * (arrays["polarization_charge"] + dipoles),
        molecular=scale * (arrays["molecular_dipoles"] + dipoles),
        polarizability=arrays["polarizability"] if data.header["has_polarizabilities"] else None,
        temperature=float(arrays["temperature"].mean()),
        cells=arrays["cell"],
        conventions=f"displacement {data.header['displacement']}, mean of Z* {rule}, scale {scale:.6g}",
        scale=scale,
        frictions_per_ps=tuple(float(frictions[k]) for k in wanted if frictions[k] > 0),
    )


def join(parts: Sequence[Series]) -> Series:
    """Several runs of the same system as one series; refuses what does not fit together."""
    first = parts[0]
    for other in parts[1:]:
        for what in ("groups", "conventions"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(
                    f"{other.name} and {first.name} do not fit together: {what} {getattr(other, what)} and "
                    f"{getattr(first, what)}"
                )
        if abs(other.interval_fs - first.interval_fs) > 1e-4 * first.interval_fs:
            raise InputError(
                f"{other.name} has a sample every {other.interval_fs:g} fs, {first.name} every {first.interval_fs:g} fs"
            )
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *(len(p.current) for p in parts)])
    pieces = tuple(
        slice(piece.start + start, piece.stop + start)
        for part, start in zip(parts, starts[:-1], strict=True)
        for piece in part.pieces
    )

    def both(name: str) -> np.ndarray | None:
        arrays = [getattr(p, name) for p in parts]
        return None if any(a is None for a in arrays) else np.concatenate(arrays)

    lengths = np.array([len(p.current) for p in parts])
    return replace(
        first,
        name=", ".join(p.name for p in parts),
        pieces=pieces,
        current=np.concatenate([p.current for p in parts]),
        other_charge=both("other_charge"),
        polarization=both("polarization"),
        molecular=both("molecular"),
        polarizability=both("polarizability"),
        cells=np.concatenate([p.cells for p in parts]),
        temperature=float(np.average([p.temperature for p in parts], weights=lengths)),
        frictions_per_ps=sum((p.frictions_per_ps for p in parts), ()),
    )
