"""A model in words: what it knows, what it predicts, how it was trained to be used."""

from __future__ import annotations

import math
from collections.abc import Iterator

from polmd.model.architecture import Readout
from polmd.model.file import Model

#: 1/(2 ε0) in eV Å/e² (CODATA 2018): with another norm_factor, latent charges are not in units of e.
VACUUM = 90.4756


def model_card(model: Model) -> Iterator[str]:
    """Lines ``name: value`` that describe a model."""
    from ase.data import chemical_symbols

    h = model.header
    a, e = h.architecture, h.electrostatics
    symbols = [chemical_symbols[z] for z in a.elements]
    yield f"name: {h.name}"
    yield f"source: {model.source or 'memory'}"
    yield f"elements: {' '.join(symbols)}"
    yield f"predicts: energies{''.join(', ' + q for q in h.predicts)}"
    types = sorted({str(array.dtype) for array in model.arrays.values()})
    yield f"weights: {model.n_weights} ({', '.join(types)})"
    yield (
        f"descriptor: cutoff {a.cutoff_A:g} Å (polynomial, p = {a.cutoff_exponent}), {a.n_rbf} Bessel functions mixed to "
        f"{a.n_radial}, max_l {a.max_l}, ν {a.max_nu}, {a.n_channels} species channels "
        f"({a.n_embedding_neighbor} × {a.n_embedding_center}), {a.n_features} features"
    )
    for layer in a.message_passing:
        terms = {"memory": layer.memory, "decaying neighbours": layer.decay, "edges weighted by h(B)": layer.chi}
        yield f"message passing: {', '.join(k for k, v in terms.items() if v)}; times {layer.norm:.6g}"
    for name, readout in (
        ("energy", a.energy), ("charge", a.charge), ("scalar polarisability", a.scalar_polarizability)
    ):  # fmt: skip
        if readout is not None:
            yield f"{name} readout: {_layers(readout, a.n_features)}"
    if a.tensor is not None:
        yield f"tensor readout: {a.tensor.hidden} gated features of rank 0, 1 and 2, {a.tensor.outputs} outputs of each"
    scales = {
        "charge": a.charge is not None and h.scales.charge,
        "charge response": "charge_responses" in h.predicts and h.scales.charge_response,
        "scalar polarisability": a.scalar_polarizability is not None and h.scales.scalar_polarizability,
    }
    if any(scales.values()):
        yield "output scales: " + ", ".join(f"{name} {value:g}" for name, value in scales.items() if value)
    flags = [name for name, value in h.flags.model_dump().items() if value]
    if a.tensor is not None:
        yield f"options: {', '.join(flags) or 'none'}"
    if h.predicts:
        yield (
            f"electrostatics: sigma {e.sigma_A:g} Å, dl {e.dl_A:g} Å, self-interaction "
            f"{'removed' if e.remove_self_interaction else 'kept'}, norm_factor {e.norm_factor:g} eV Å/e²"
        )
        if not math.isclose(e.norm_factor, VACUUM, rel_tol=0.02):
            unit = math.sqrt(VACUUM / e.norm_factor)
            yield f"note: with this norm_factor latent charges and what follows from them are {unit:.6g} times as large as in e"
    if h.atomic_energies_eV:
        energies = [
            f"{s} {h.atomic_energies_eV.get(str(z), 0.0):.10g}" for s, z in zip(symbols, a.elements, strict=True)
        ]
        yield f"atomic energies: {', '.join(energies)} eV"
    else:
        yield "atomic energies: none; total energies are relative to those of the training data"
    yield f"provenance: {h.provenance or 'not stated'}"
    yield f"licence: {h.licence or 'not stated'}"
    yield f"fingerprint: sha256 {model.fingerprint()}"


def _layers(readout: Readout, n_features: int) -> str:
    text = f"{n_features} → {readout.hidden[0]} → {readout.hidden[1]} → 1"
    if readout.linear:
        text += f" plus a linear part{'' if readout.linear_bias else ' without bias'}"
    return text if readout.bias else text + ", no biases in the layers"
