"""Train a model of polmd on energies, forces and, where the frames have it, stress.

    python train.py nacl_cluster.toml --variant full --seed 0 --out trained
    polmd convert trained/nacl_cluster-full-0.npz nacl_cluster.h5

Needs torch beside polmd (``pip install 'polmd[train]'``). The recipe (a TOML file, :class:`Recipe`) names the data and all
settings, so that variant and seed are the only choices left. Periodic frames take the long-range energy from the sum over wave
vectors, frames without a cell from the sum over all pairs; frames of several compositions and charges may be mixed. What is
written is the moving average of the weights with the smallest validation loss. Training stops after ``steps`` steps or when
``patience`` validations in a row were no better; a second call with the same --out goes on from the last validation.
Everything follows from the seed, on one thread bit for bit (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from d4 import counting
from frames import read_frames
from network import CHARGE_SCALE, KAPPA_SCALE, VARIANTS, Network, Step, half_sphere, open_energy, periodic_energy
from optimiser import Soap


@dataclass(frozen=True)
class Recipe:
    """Everything about a training but variant and seed. Weights of the loss are per (eV/Å)², (eV/atom)² and, of stress and
    pressure, (eV/Å³)²."""

    name: str
    data: str  # frames with energies and forces, relative to the recipe
    elements: list[str]
    cutoff: float
    validation: int  # frames; with `group` at least so many, in whole groups
    test: int
    steps: int
    negative: str = ""  # element whose mean charge is to be negative: energies leave the sign open
    group: str = ""  # key of atoms.info: frames that share its value are never split
    train_only: str = ""  # frames with this word in their `kind` are never held back
    # in the loss, of frames with this word in their `kind`; of all others 1
    weights: dict[str, float] = field(default_factory=dict)
    max_l: int = 3
    max_nu: int = 3
    embedding: int = 2
    n_rbf: int = 6
    n_radial: int = 12
    hidden: list[int] = field(default_factory=lambda: [32, 16])
    batch: int = 8
    rate: float = 1e-2
    force_weight: float = 1000.0
    energy_weight: float = 1e4
    stress_weight: float = 0.0
    pressure_GPa: float | None = None  # mean over the frames, see MeanPressure
    pressure_weight: float = 3e4
    temperature_K: float = 0.0  # of the frames, for the kinetic part of the pressure
    step: dict[str, Any] = field(default_factory=dict)  # element, centre, width: see d4.py and network.Step
    sigma: float = 1.0
    dl: float = 2.0
    norm_factor: float = 90.4756
    validate_every: int = 250
    patience: int = 20
    split_seed: int = 1
    labels: str = ""
    licence: str = ""
    limits: str = ""

    @staticmethod
    def read(path: Path) -> Recipe:
        given = tomllib.loads(path.read_text())
        unknown = set(given) - {f.name for f in fields(Recipe)}
        if unknown:
            raise SystemExit(f"{path}: unknown keys {sorted(unknown)}")
        return Recipe(**given)


def _kept(a: Atoms, recipe: Recipe) -> bool:
    """Whether a frame is for training only."""
    return bool(recipe.train_only) and recipe.train_only in str(a.info.get("kind"))


def _weight(a: Atoms, recipe: Recipe) -> float:
    """Weight of a frame in the loss."""
    return math.prod(weight for word, weight in recipe.weights.items() if word in str(a.info.get("kind")))


def split(frames: list[Atoms], recipe: Recipe) -> tuple[list[Atoms], list[Atoms], list[Atoms]]:
    """Training, validation and test frames."""
    keys = [str(a.info[recipe.group]) if recipe.group else str(k) for k, a in enumerate(frames)]
    kept = [_kept(a, recipe) for a in frames]
    groups = sorted({key for key, keep in zip(keys, kept, strict=True) if not keep})
    np.random.default_rng(recipe.split_seed).shuffle(groups)
    parts: list[list[Atoms]] = [[a for a, keep in zip(frames, kept, strict=True) if keep], [], []]
    for group in groups:
        members = [a for a, key, keep in zip(frames, keys, kept, strict=True) if key == group and not keep]
        part = 2 if len(parts[2]) < recipe.test else 1 if len(parts[1]) < recipe.validation else 0
        parts[part] += members
    return parts[0], parts[1], parts[2]


def atomic_energies(frames: list[Atoms], elements: list[int]) -> dict[int, float]:
    """Least squares of the energies on the composition."""
    counts = np.array([[(a.numbers == z).sum() for z in elements] for a in frames], float)
    energies = np.array([a.get_potential_energy() for a in frames])
    return dict(zip(elements, np.linalg.lstsq(counts, energies, rcond=None)[0].tolist(), strict=True))


class Frames:
    """Frames as tensors, neighbour lists included, and batches of them."""

    def __init__(self, frames: list[Atoms], elements: list[int], e0: dict[int, float], recipe: Recipe):
        dtype = torch.get_default_dtype()
        real = lambda x: torch.tensor(np.asarray(x), dtype=dtype)  # noqa: E731
        self.items = []
        for a in frames:
            cell = a.cell.array
            if a.pbc.any():
                i, j, images = neighbor_list("ijS", a, recipe.cutoff)
            else:
                distances = np.linalg.norm(a.positions[:, None] - a.positions[None], axis=2)
                i, j = np.nonzero((distances < recipe.cutoff) & ~np.eye(len(a), dtype=bool))
                images = np.zeros((len(i), 3))
            item = {
                "pos": real(a.positions), "types": torch.tensor([elements.index(z) for z in a.numbers]),
                "i": torch.tensor(i), "j": torch.tensor(j), "shift": real(images @ cell),
                "energy": real(a.get_potential_energy() - sum(e0[int(z)] for z in a.numbers)), "forces": real(a.get_forces()),
                "periodic": bool(a.pbc.any()), "weight": real(_weight(a, recipe)),
            }  # fmt: skip
            if a.pbc.any():
                item |= {"cell": real(cell), "waves": real(half_sphere(cell, recipe.dl))}
                if recipe.stress_weight and "stress" in a.calc.results:
                    item["stress"] = real(a.get_stress(voigt=False))
            else:
                item["pi"], item["pj"] = torch.tensor(np.argwhere(~np.eye(len(a), dtype=bool)).T)
            self.items.append(item)
        kinds = {d["periodic"] for d in self.items}
        if len(kinds) > 1:
            raise SystemExit("periodic and open frames cannot be trained together")
        if kinds == {False} and recipe.pressure_GPa is not None:
            raise SystemExit("pressure_GPa needs periodic frames; these have no cell")

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, which: np.ndarray) -> dict:
        """Concatenation of some frames; ``frame`` is the frame of each atom, ``start`` the first atom of each frame."""
        items = [self.items[k] for k in which]
        sizes = [len(d["pos"]) for d in items]
        start = np.concatenate([[0], np.cumsum(sizes)])
        out = {"items": items, "sizes": torch.tensor(sizes), "start": start, "periodic": items[0]["periodic"]}
        for key in ("pos", "types", "shift", "forces"):
            out[key] = torch.cat([d[key] for d in items])
        for key in ("i", "j", "pi", "pj"):
            if key in items[0]:
                out[key] = torch.cat([d[key] + int(s) for d, s in zip(items, start, strict=False)])
        out["energy"], out["weight"] = (torch.stack([d[key] for d in items]) for key in ("energy", "weight"))
        out["frame"] = torch.repeat_interleave(torch.arange(len(items)), out["sizes"])
        if all("stress" in d for d in items):
            out["stress"] = torch.stack([d["stress"] for d in items])
        return out


GPA = 160.2176634  # of 1 eV/Å³
BOLTZMANN = 8.617333262e-5  # eV/K


def pressures(stress: torch.Tensor, batch: dict, recipe: Recipe) -> torch.Tensor:
    """Pressure of each frame, eV/Å³: N k_B T/V − tr(stress)/3."""
    volumes = torch.stack([torch.det(d["cell"]).abs() for d in batch["items"]])
    kinetic = batch["sizes"] * BOLTZMANN * recipe.temperature_K / volumes
    return kinetic - torch.diagonal(stress, dim1=1, dim2=2).mean(dim=1)


class MeanPressure:
    """Holds the mean pressure of the frames at a given one: loss w (⟨P⟩ − P₀)², with the slope that it has at ``WIDEST``
    (eV/Å³) beyond that.

    For labels without stress whose frames have one density: nothing else in them fixes dE/dV, and a liquid trained on them
    may have any density at 1 bar. The frames must sample the ensemble of the density and temperature that P₀ belongs to.
    Squaring the mean of a batch would also suppress the fluctuations of the pressure; here ⟨P⟩ is a running mean over some
    twenty batches, kept out of the gradient, and a batch enters linearly: 2 w (⟨P⟩ − P₀) P.
    """

    KEEP, WIDEST = 0.95, 0.1 / GPA

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0.0

    def loss(self, pressure: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        """What a batch adds to the loss; ``pressure`` [frames] eV/Å³, positive under compression."""
        mean = pressure.mean()
        self.sum = self.KEEP * self.sum + float(mean.detach())
        self.count = self.KEEP * self.count + 1.0
        excess = self.sum / self.count - recipe.pressure_GPa / GPA
        slope = 2.0 * recipe.pressure_weight * min(max(excess, -self.WIDEST), self.WIDEST)
        return slope * (mean - mean.detach()) + recipe.pressure_weight * excess**2


def predict(network: Network, batch: dict, recipe: Recipe, *, training: bool) -> dict[str, torch.Tensor]:
    """Energies [frames] eV, forces [atoms, 3] eV/Å and, if the batch has it or the recipe a pressure, stress [frames, 3, 3]
    eV/Å³, positive under tension."""
    pos = batch["pos"].detach().requires_grad_(True)
    x, shift, frame = pos, batch["shift"], batch["frame"]
    inputs, deform = [pos], None
    if "stress" in batch or recipe.pressure_GPa is not None:
        strain = torch.zeros(len(batch["sizes"]), 3, 3, dtype=pos.dtype, requires_grad=True)
        inputs.append(strain)
        deform = torch.eye(3, dtype=pos.dtype) + 0.5 * (strain + strain.transpose(1, 2))
        x = torch.einsum("na,nab->nb", pos, deform[frame])
        shift = torch.einsum("na,nab->nb", shift, deform[frame[batch["i"]]])
    m = network(x[batch["i"]] - x[batch["j"]] - shift, batch["types"], batch["i"], batch["j"])
    per_atom = m["energies"]
    if network.predicts and not batch["periodic"]:
        vectors = x[batch["pi"]] - x[batch["pj"]]
        per_atom = per_atom + open_energy(vectors, m, batch["pi"], batch["pj"], recipe.norm_factor, recipe.sigma)
    energy = torch.zeros(len(batch["sizes"]), dtype=pos.dtype).index_add(0, frame, per_atom)
    if network.predicts and batch["periodic"]:
        parts = []
        for k, d in enumerate(batch["items"]):
            s = slice(batch["start"][k], batch["start"][k + 1])
            own = {key: value[s] for key, value in m.items()}
            cell = d["cell"] if deform is None else d["cell"] @ deform[k]
            parts.append(periodic_energy(x[s], cell, own, d["waves"], recipe.norm_factor, recipe.sigma))
        energy = energy + torch.stack(parts)
    gradients = torch.autograd.grad(energy.sum(), inputs, create_graph=training)
    out = {"energy": energy, "forces": -gradients[0], "charges": m.get("charges")}
    if deform is not None:
        volumes = torch.stack([torch.det(d["cell"]).abs() for d in batch["items"]])
        out["stress"] = gradients[1] / volumes[:, None, None]
    return out


def errors(network: Network, data: Frames, recipe: Recipe) -> dict[str, float]:
    """Root mean squares: forces meV/Å, energy meV/atom, stress GPa; mean pressure, GPa; ``loss`` with the final weights."""
    forces, energies, stress, pressure = [], [], [], []
    for k in range(0, len(data), recipe.batch):
        batch = data.batch(np.arange(k, min(k + recipe.batch, len(data))))
        p = predict(network, batch, recipe, training=False)
        forces.append((p["forces"] - batch["forces"]).flatten())
        energies.append((p["energy"] - batch["energy"]) / batch["sizes"])
        if "stress" in batch:
            stress.append((p["stress"] - batch["stress"]).flatten())
        if recipe.pressure_GPa is not None:
            pressure.append(pressures(p["stress"], batch, recipe).detach())
    mean = {
        n: float((torch.cat(v).detach().double() ** 2).mean())
        for n, v in (("f", forces), ("e", energies), ("s", stress))
        if v
    }
    loss = (
        recipe.force_weight * mean["f"] + recipe.energy_weight * mean["e"] + recipe.stress_weight * mean.get("s", 0.0)
    )
    out = {"forces_meV_A": 1e3 * math.sqrt(mean["f"]), "energy_meV_atom": 1e3 * math.sqrt(mean["e"]), "loss": loss}
    if "s" in mean:
        out["stress_GPa"] = GPA * math.sqrt(mean["s"])
    if pressure:
        out["pressure_GPa"] = GPA * float(torch.cat(pressure).mean())
    return {k: float(v) for k, v in out.items()}


def save(path: Path, network: Network, weights: dict[str, torch.Tensor], recipe: Recipe, e0: dict[int, float], flip: bool,
         name: str, provenance: str) -> None:  # fmt: skip
    """Write the plain archive that ``polmd convert`` reads."""
    meta = {
        "name": name, "max_l": recipe.max_l, "max_nu": recipe.max_nu, "charge_scale": CHARGE_SCALE, "kappa_scale": KAPPA_SCALE,
        "norm_factor": recipe.norm_factor, "sigma": recipe.sigma, "dl": recipe.dl, "remove_self_interaction": True,
        "make_alpha_positive": True, "make_kappa_positive": True, "make_quad_traceless": True, "predicts": network.predicts,
        "atomic_energies": {str(z): v for z, v in e0.items()}, "provenance": provenance, "licence": recipe.licence,
    }  # fmt: skip
    arrays = network.exported(weights, flip=flip)
    partial = path.with_suffix(".part.npz")
    np.savez(partial, zs=np.array(network.elements), cutoff=recipe.cutoff, meta=json.dumps(meta), **arrays)
    os.replace(partial, path)


def mean_charge(network: Network, data: Frames, recipe: Recipe, element: int) -> float:
    batch = data.batch(np.arange(min(len(data), recipe.batch)))
    p = predict(network, batch, recipe, training=False)
    return float(p["charges"].detach()[batch["types"] == network.elements.index(element)].mean())


@dataclass(frozen=True)
class Data:
    """Frames of a recipe, split and prepared."""

    elements: list[int]
    e0: dict[int, float]
    train: Frames
    validation: Frames
    test: Frames

    @staticmethod
    def prepare(recipe: Recipe, folder: Path) -> Data:
        elements = [atomic_numbers[s] for s in recipe.elements]
        parts = split(read_frames(folder / recipe.data), recipe)
        e0 = atomic_energies(parts[0], elements)
        return Data(elements, e0, *(Frames(part, elements, e0, recipe) for part in parts))


def train(recipe: Recipe, data: Data, variant: str, seed: int, out: Path) -> None:
    """Train one model, or go on with it, and write archive and report."""
    elements, e0, train_data, held, test = data.elements, data.e0, data.train, data.validation, data.test
    sizes = [len(train_data), len(held), len(test)]
    jump = (
        Step(atomic_numbers[recipe.step["element"]], recipe.step["centre"], recipe.step["width"], counting)
        if recipe.step
        else None
    )
    torch.manual_seed(seed)
    network = Network(elements, recipe.cutoff, VARIANTS[variant], max_l=recipe.max_l, max_nu=recipe.max_nu,
                      embedding=recipe.embedding, n_rbf=recipe.n_rbf, n_radial=recipe.n_radial,
                      hidden=(recipe.hidden[0], recipe.hidden[1]), step=jump)  # fmt: skip
    with torch.no_grad():
        some = train_data.batch(np.arange(min(len(train_data), 24)))
        vectors = some["pos"][some["i"]] - some["pos"][some["j"]] - some["shift"]
        network.standardise(network.features(network.descriptors(vectors, some["types"], some["i"], some["j"])))
    parameters = dict(network.w.items())
    optimiser = Soap(list(parameters.values()), lr=recipe.rate)
    held_pressure = MeanPressure()
    average = {k: v.detach().clone() for k, v in parameters.items()}
    best, best_loss, since, step, spent, history = average, math.inf, 0, 0, 0.0, []
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{recipe.name}-{variant.replace('+', '')}-{seed}"
    checkpoint = out / f"{stem}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != json.dumps(asdict(recipe)):
            raise SystemExit(f"{checkpoint} belongs to another recipe; remove it or choose another --out")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average, best, best_loss, since = state["average"], state["best"], state["best_loss"], state["since"]
        step, spent, history = state["step"], state["spent"], state["history"]
        held_pressure.sum, held_pressure.count = state["pressure"]
    per_epoch = math.ceil(len(train_data) / recipe.batch)
    began = time.perf_counter() - spent
    print(f"{stem}: {sizes[0]}, {sizes[1]}, {sizes[2]} frames, "
          f"{sum(v.numel() for v in parameters.values())} weights, from step {step}", flush=True)  # fmt: skip
    while step < recipe.steps and since < recipe.patience:
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(train_data))
        batch = train_data.batch(np.array_split(order, per_epoch)[at])
        done = step / recipe.steps
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(1, (step + 1) / 50) * (0.4975 * (1 + math.cos(math.pi * done)) + 0.005)
        p = predict(network, batch, recipe, training=True)
        weight = batch["weight"]
        loss = recipe.force_weight * (weight[batch["frame"], None] * (p["forces"] - batch["forces"]) ** 2).mean()
        ramp = min(1.0, 0.02 + 2 * max(0.0, done - 0.3))
        loss = (
            loss
            + recipe.energy_weight * ramp * (weight * ((p["energy"] - batch["energy"]) / batch["sizes"]) ** 2).mean()
        )
        if recipe.pressure_GPa is not None:
            loss = loss + ramp * held_pressure.loss(pressures(p["stress"], batch, recipe), recipe)
        if "stress" in batch:
            loss = loss + recipe.stress_weight * (weight[:, None, None] * (p["stress"] - batch["stress"]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 10 if step > 100 else 100)
        optimiser.step()
        step += 1
        keep = min(0.995, 1 - 1 / (step + 1))
        with torch.no_grad():
            for k, v in parameters.items():
                average[k].mul_(keep).add_(v, alpha=1 - keep)
        if step % recipe.validate_every and step != recipe.steps:
            continue
        current = {k: v.detach().clone() for k, v in parameters.items()}
        _load(parameters, average)
        found = errors(network, held, recipe)
        _load(parameters, current)
        history.append({"step": step, **found})
        since += 1
        if found["loss"] < best_loss:
            best, best_loss, since = {k: v.clone() for k, v in average.items()}, found["loss"], 0
        spent = time.perf_counter() - began
        text = ", ".join(f"{k} {v:.3f}" for k, v in found.items())
        print(f"step {step}, {spent:.0f} s, training loss {loss.item():.3f}; validation {text}", flush=True)
        state = {"recipe": json.dumps(asdict(recipe)), "network": network.state_dict(), "optimiser": optimiser.state_dict(),
                 "average": average, "best": best, "best_loss": best_loss, "since": since, "step": step, "spent": spent,
                 "history": history, "pressure": (held_pressure.sum, held_pressure.count)}  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    _load(parameters, best)
    flip = (
        bool(recipe.negative and network.predicts)
        and mean_charge(network, held, recipe, atomic_numbers[recipe.negative]) > 0
    )
    report = {
        "recipe": recipe.name, "variant": variant, "seed": seed, "frames": sizes, "steps": step,
        "seconds": round(spent), "validation": errors(network, held, recipe), "test": errors(network, test, recipe),
    }  # fmt: skip
    provenance = (
        f"Trained for polmd (inputs/models/train.py, recipe {recipe.name}.toml, variant {variant}, seed {seed}) on {sizes[0]} "
        f"frames ({sizes[1]} for validation, {sizes[2]} for testing). Labels: {recipe.labels} Test errors (rms): forces "
        f"{report['test']['forces_meV_A']:.1f} meV/A, energy {report['test']['energy_meV_atom']:.2f} meV/atom. {recipe.limits}"
    ).strip()
    save(out / f"{stem}.npz", network, best, recipe, e0, flip, f"{recipe.name}-{variant}", provenance)
    (out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["test"]), flush=True)


def _load(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for k, v in parameters.items():
            v.copy_(values[k])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--variant", choices=list(VARIANTS), nargs="+", default=["full"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of archive, report and checkpoint")
    a = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    recipe = Recipe.read(a.recipe)
    data = Data.prepare(recipe, a.recipe.resolve().parent)
    for seed in a.seed:
        for variant in a.variant:
            train(recipe, data, variant, seed, a.out)


if __name__ == "__main__":
    main()
