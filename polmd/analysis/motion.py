"""What positions and velocities alone tell: vibrations, diffusion, distances; and the static dielectric constant."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from polmd.analysis.frames import Frames
from polmd.analysis.series import Series, continuous
from polmd.analysis.spectrum import LIGHT_CM_PER_FS, Estimate, average, correlation, segments, transforms
from polmd.errors import InputError
from polmd.neighbors import build_pairs
from polmd.units import ACCELERATION, BOLTZMANN, INVERSE_VACUUM_PERMITTIVITY

#: Fewest frames of a piece that displacements are averaged over.
_FEWEST = 10


def kinds(frames: Frames) -> dict[str, np.ndarray]:
    """Atoms of each element, symbol → indices."""
    from ase.data import chemical_symbols

    numbers = frames.systems[0].numbers
    return {chemical_symbols[z]: np.flatnonzero(numbers == z) for z in np.unique(numbers)}


# ----------------------------------------------------------------------------------------------------------- vibrations


@dataclass(frozen=True)
class Vibrations:
    """Vibrational density of states g(ν̃), cm; its integral is the number of degrees of freedom.

    Attributes
    ----------
    total : with error
    species : symbol → (points,), they add up to the total
    temperature : K, kinetic
    """

    total: Estimate
    species: dict[str, np.ndarray]
    temperature: float


def vibrations(frames: Frames, *, resolution: float = 20.0, window: str = "hann") -> Vibrations:
    """g(ν̃) = (2/k_B T) Σ_i m_i S_v,i, S_v the one-sided spectral density of the velocity, with k_B T such that the
    integral is the number of degrees of freedom (3n − 3)."""
    interval, pieces = continuous(frames.times, frames.stages)
    velocities = np.stack([s.velocities for s in frames.systems])
    if not velocities.any():
        raise InputError(f"{frames.path} holds no velocities")
    masses = frames.systems[0].masses
    momenta = np.sqrt(masses)[:, None] * velocities
    cut = segments([p.stop - p.start for p in pieces], interval, resolution, window)
    freedoms = max(1, 3 * len(masses) - 3)
    kT = float(np.sum(momenta**2) / len(momenta)) / freedoms / ACCELERATION
    scale = 2 * LIGHT_CM_PER_FS / (kT * ACCELERATION)
    power = {
        name: scale * np.sum(np.abs(transforms([momenta[p][:, atoms] for p in pieces], cut)) ** 2, axis=(2, 3))
        for name, atoms in kinds(frames).items()
    }
    total = average(np.sum(list(power.values()), axis=0), cut)
    return Vibrations(total, {k: v.mean(axis=0) for k, v in power.items()}, kT / BOLTZMANN)


# ------------------------------------------------------------------------------------------------------------ diffusion


@dataclass(frozen=True)
class Diffusion:
    """Mean square displacement of one element.

    Attributes
    ----------
    times : (lags,) fs
    msd : (lags,) Å², along three directions together
    coefficient, error : D in cm²/s, from the slope of the straight line, and its standard error from blocks
    fit : (first, last) time of the fit, fs
    """

    times: np.ndarray
    msd: np.ndarray
    coefficient: float
    error: float
    fit: tuple[float, float]


def diffusion(frames: Frames, *, fit: tuple[float, float] | None = None, blocks: int = 4) -> dict[str, Diffusion]:
    """Diffusion coefficients by Einstein's relation, msd = 6 D t, of every element.

    Displacements are those relative to the centre of mass. All time origins count; the line is fitted between the times
    ``fit`` (fs; None: from a tenth to a half of the longest time), and the error is the scatter over pieces or, with one
    piece, over ``blocks`` of it. No correction for the size of the box (Yeh, Hummer, doi:10.1021/jp0477147) is made.
    """
    interval, pieces = continuous(frames.times, frames.stages)
    masses = frames.systems[0].masses
    positions = np.stack([s.positions for s in frames.systems])
    positions = positions - (masses @ positions / masses.sum())[:, None, :] if len(masses) > 1 else positions
    # the few frames of a minimisation or of a short equilibration are no pieces of their own
    pieces = tuple(p for p in pieces if p.stop - p.start >= _FEWEST) or pieces
    if len(pieces) == 1:
        whole = pieces[0]
        edges = np.linspace(whole.start, whole.stop, blocks + 1).astype(int)
        pieces = tuple(slice(a, b) for a, b in pairwise(edges))
    samples = min(p.stop - p.start for p in pieces)
    if samples < _FEWEST:
        raise InputError(
            f"{frames.path}: {samples} frames per block are too few for a diffusion coefficient, at least {_FEWEST} are "
            "needed: take a longer trajectory, or fewer blocks"
        )
    times = np.arange(samples) * interval
    first, last = (0.1 * times[-1], 0.5 * times[-1]) if fit is None else fit
    inside = (times >= first) & (times <= last)
    if inside.sum() < 2:
        raise InputError(f"the fit from {first:g} to {last:g} fs holds fewer than two frames, {interval:g} fs apart")
    found = {}
    for name, atoms in kinds(frames).items():
        curves = np.stack([_msd(positions[p][:samples, atoms]) for p in pieces])
        slopes = np.array([np.polyfit(times[inside], c[inside], 1)[0] for c in curves])
        to_cm2_per_s = 1e-16 * 1e15 / 6
        error = float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else float("nan")
        found[name] = Diffusion(
            times, curves.mean(axis=0), to_cm2_per_s * float(slopes.mean()), to_cm2_per_s * error, (first, last)
        )
    return found


def _msd(x: np.ndarray) -> np.ndarray:
    """⟨|x(t + τ) − x(t)|²⟩ over origins and atoms, (samples,) for x (samples, atoms, 3)."""
    n = len(x)
    square = np.sum(x * x, axis=(1, 2))
    head = np.concatenate([[0.0], np.cumsum(square)])
    lags = np.arange(n)
    ends = (head[n - lags] + head[n] - head[lags]) / (n - lags)
    return (ends - 2 * correlation(x, n)) / x.shape[1]


# ------------------------------------------------------------------------------------------------------------ distances


@dataclass(frozen=True)
class Distances:
    """Radial distribution function of one pair of elements.

    Attributes
    ----------
    r : (bins,) Å, centres
    g : (bins,) and error : its standard error from blocks of frames
    coordination : (bins,) neighbours of the second element within the far edge of the bin
    """

    r: np.ndarray
    g: np.ndarray
    error: np.ndarray
    coordination: np.ndarray


def distances(frames: Frames, *, cutoff: float = 6.0, width: float = 0.02, blocks: int = 5) -> dict[str, Distances]:
    """g(r) of every pair of elements up to ``cutoff`` Å, images of the periodic cell included (the cutoff may exceed half
    the cell; what lies beyond it is correlated with what lies within)."""
    if not all(s.pbc.all() for s in frames.systems):
        raise InputError(f"{frames.path}: a radial distribution function needs three periodic axes")
    blocks = max(2, min(blocks, len(frames)))
    if len(frames) < 2:
        raise InputError(f"{frames.path}: an error needs two frames at least")
    edges = np.arange(0.0, cutoff + 0.5 * width, width)
    members = kinds(frames)
    names = list(members)
    index = np.empty(len(frames.systems[0]), dtype=np.int64)
    for k, name in enumerate(names):
        index[members[name]] = k
    counts = np.zeros((blocks, len(names), len(names), len(edges) - 1))
    densities = np.zeros(blocks)
    frames_in = np.zeros(blocks)
    for t, system in enumerate(frames.systems):
        block = t * blocks // len(frames)
        pairs = build_pairs(system.positions, system.cell, system.pbc, edges[-1])
        r = np.linalg.norm(pairs.edges(system.positions, system.cell), axis=1)
        which = index[pairs.centers] * len(names) + index[pairs.neighbors]
        bins = np.minimum((r / width).astype(np.int64), len(edges) - 2)
        flat = np.bincount(which * (len(edges) - 1) + bins, minlength=len(names) ** 2 * (len(edges) - 1))
        counts[block] += flat.reshape(counts.shape[1:])
        densities[block] += 1.0 / system.volume
        frames_in[block] += 1
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    found = {}
    for a, first in enumerate(names):
        for b, second in enumerate(names[a:], start=a):
            n, m = len(members[first]), len(members[second])
            others = m - (a == b) or 1
            per_atom = counts[:, a, b] / frames_in[:, None] / n
            g = per_atom / (others * (densities / frames_in)[:, None] * shells)
            mean = np.average(g, axis=0, weights=frames_in)
            error = g.std(axis=0, ddof=1) / np.sqrt(blocks)
            coordination = np.cumsum(np.average(per_atom, axis=0, weights=frames_in))
            found[f"{first}-{second}"] = Distances(0.5 * (edges[1:] + edges[:-1]), mean, error, coordination)
    return found


# -------------------------------------------------------------------------------------------------- dielectric constant


@dataclass(frozen=True)
class Dielectric:
    """Static dielectric constant ε = ε∞ + (⟨M²⟩ − ⟨M⟩²)/(3 ε0 V k_B T), tin-foil boundaries.

    Attributes
    ----------
    epsilon, error : with its standard error, by leaving out one block at a time
    epsilon_infinity : what was used
    mean : (3,) e Å, ⟨M⟩; it should be zero within a few of its own errors
    mean_error : (3,)
    blocks : number
    source : "molecular dipoles" or "current"
    """

    epsilon: float
    error: float
    epsilon_infinity: float
    mean: np.ndarray
    mean_error: np.ndarray
    blocks: int
    source: str


def dielectric(
    series: Series,
    *,
    source: str = "dipoles",
    epsilon_infinity: float | None = None,
    temperature: float | None = None,
    blocks: int = 10,
) -> Dielectric:
    """Static dielectric constant from the fluctuations of the cell's dipole moment.

    ``source``: "dipoles", the sum of molecular dipoles (latent charges); or "current", M(t) = ∫J dt (Born charges) by
    Simpson's rule within each piece, whose means are subtracted: it misses what is slower than a piece. The error is that
    of a jackknife over ``blocks``; with relaxation slower than a block it is too small.
    """
    volume = series.volume
    if volume is None:
        raise InputError(f"{series.name}: a dielectric constant needs a periodic cell")
    temperature = series.temperature if temperature is None else temperature
    if source == "dipoles":
        if series.molecular is None:
            raise InputError(f"{series.name} holds no molecular dipoles")
        samples = np.concatenate(series.cut(series.molecular))
        name = "molecular dipoles"
    elif source == "current":
        from scipy.integrate import cumulative_simpson

        parts = []
        for j in series.cut(series.current.sum(axis=(1, 2))):
            if len(j) >= 3:
                m = cumulative_simpson(j, dx=series.interval_fs, axis=0, initial=0)
                parts.append(m - m.mean(axis=0))
        samples, name = np.concatenate(parts), "current"
    else:
        raise InputError(f"source {source!r} is not known; choose 'dipoles' or 'current'")
    if len(samples) < 2 * blocks:
        raise InputError(f"{series.name}: {len(samples)} samples are too few for {blocks} blocks")
    if epsilon_infinity is None:
        epsilon_infinity = 1.0 + series.susceptibility
    scale = INVERSE_VACUUM_PERMITTIVITY / (3 * volume * BOLTZMANN * temperature)
    edges = np.linspace(0, len(samples), blocks + 1).astype(int)
    sums = np.stack([samples[a:b].sum(axis=0) for a, b in pairwise(edges)])
    squares = np.array([np.sum(samples[a:b] ** 2) for a, b in pairwise(edges)])
    sizes = np.diff(edges)

    def fluctuation(keep: np.ndarray) -> float:
        n = sizes[keep].sum()
        mean = sums[keep].sum(axis=0) / n
        return float(squares[keep].sum() / n - mean @ mean)

    everything = np.ones(blocks, dtype=bool)
    left_out = [fluctuation(np.arange(blocks) != k) for k in range(blocks)]
    means = sums / sizes[:, None]
    return Dielectric(
        epsilon=epsilon_infinity + scale * fluctuation(everything),
        error=scale * float(np.sqrt((blocks - 1) * np.var(left_out))),
        epsilon_infinity=epsilon_infinity,
        mean=samples.mean(axis=0),
        mean_error=means.std(axis=0, ddof=1) / np.sqrt(blocks),
        blocks=blocks,
        source=name,
    )
