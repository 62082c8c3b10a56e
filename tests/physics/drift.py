"""How fast a conserved quantity drifts, with an honest error bar."""

from dataclasses import dataclass

import numpy as np

from polmd.units import BOLTZMANN


@dataclass
class Drift:
    """Slope of a conserved quantity and its standard error, kT/ns/dof; ``fluctuation`` is its standard deviation, eV."""

    slope: float
    error: float
    fluctuation: float

    def __str__(self) -> str:
        return f"drift {self.slope:+.2e} ± {self.error:.2e} kT/ns/dof, fluctuation {self.fluctuation:.2e} eV"


def measure_drift(times_fs, conserved, temperature_K, dof, *, random_walk, bounded=None, blocks=20) -> Drift:
    """Drift of a series from the means of ``blocks`` equal blocks.

    A deterministic integrator's quantity fluctuates about a line: least squares, error from the residuals. One that
    draws random numbers makes it walk (every exchange of heat leaves a rounding of order Δt² behind): the drift is the
    mean increment from block to block, and its error that of the mean of increments.

    ``bounded`` is a quantity, eV, that cannot drift and explains part of the fluctuation (the shadow Hamiltonian's
    second-order term): least squares then fit line and quantity together.
    """
    t = np.asarray(times_fs) * 1e-6
    e = (np.asarray(conserved) - conserved[0]) / (BOLTZMANN * temperature_K * dof)
    n = len(t) // blocks * blocks
    fluctuation = float(np.std(conserved))
    t, e = t[:n].reshape(blocks, -1).mean(axis=1), e[:n].reshape(blocks, -1).mean(axis=1)
    if random_walk:
        rates = np.diff(e) / np.diff(t)
        return Drift(float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(len(rates))), fluctuation)
    columns = [np.ones(blocks), t - t.mean()]
    if bounded is not None and np.any(bounded):
        b = np.asarray(bounded)[:n].reshape(blocks, -1).mean(axis=1) / (BOLTZMANN * temperature_K * dof)
        columns.append(b - b.mean())
    design = np.stack(columns, axis=1)
    inverse = np.linalg.inv(design.T @ design)
    fit = inverse @ design.T @ e
    residual = e - design @ fit
    variance = residual @ residual / (blocks - len(fit)) * inverse[1, 1]
    return Drift(float(fit[1]), float(np.sqrt(variance)), fluctuation)
