"""The recipes of the bundled models: PyTorch statement against the engine, a short training, resumed bit for bit."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

import polmd

MODELS = Path(__file__).resolve().parent.parent / "inputs" / "models"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="training needs torch")


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch):
    """The module train.py of the recipes."""
    import torch

    monkeypatch.syspath_prepend(str(MODELS))
    default = torch.get_default_dtype()
    yield __import__("train")
    torch.set_default_dtype(default)
    for name in ("train", "network", "optimiser", "d4", "frames"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("variant", "boundaries", "step"),
    [(v, b, False) for v in ("none", "q", "q+u", "q+u+Q", "full") for b in ("open", "periodic")]
    + [("full", "open", True)],
)
def test_same_as_engine(recipes, tmp_path: Path, variant: str, boundaries: str, step: bool) -> None:
    """Energy, forces and stress of the exported weights, features centred and scaled, against the engine."""
    import torch

    from polmd.model.importers.npz import read_npz

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    frames = read(MODELS / ("nacl_variants.xyz.xz" if boundaries == "open" else "mapbi3.xyz.xz"), ":40:20")
    elements = sorted({int(z) for a in frames for z in a.numbers})
    recipe = recipes.Recipe("x", "", ["H"], 4.5, 0, 0, 0, max_nu=2 if boundaries == "open" else 3, stress_weight=1.0)
    e0 = {z: -float(z) for z in elements}
    network = recipes.Network(
        elements, 4.5, recipes.VARIANTS[variant], max_nu=recipe.max_nu, n_radial=3, hidden=(8, 4),
        step=recipes.Step(11, 3.388, 0.05, recipes.counting) if step else None,
    ).double()  # fmt: skip
    batch = recipes.Frames(frames, elements, e0, recipe).batch(np.arange(len(frames)))
    vectors = batch["pos"][batch["i"]] - batch["pos"][batch["j"]] - batch["shift"]
    with torch.no_grad():
        features = network.features(network.descriptors(vectors, batch["types"], batch["i"], batch["j"]))
        network.standardise(features)
    weights = {k: v.detach() for k, v in network.w.items()}
    recipes.save(tmp_path / "m.npz", network, weights, recipe, e0, False, "m", "")
    potential = polmd.MultipolePotential(read_npz(tmp_path / "m.npz"))
    found = recipes.predict(network, batch, recipe, training=False)
    for k, atoms in enumerate(frames):
        expected = potential.compute(polmd.System.from_ase(atoms), stress=boundaries == "periodic")
        forces = found["forces"][batch["start"][k] : batch["start"][k + 1]].numpy()
        energy = found["energy"][k].item() + sum(e0[int(z)] for z in atoms.numbers)
        scale = abs(expected.forces).max()
        rounding = 1e-4 if step else 2e-5  # the archive holds float32; a step has large weights
        assert abs(forces - expected.forces).max() < rounding * scale
        assert energy == pytest.approx(expected.energy, abs=1e-4 * scale)
        if boundaries == "periodic":
            assert abs(found["stress"][k].numpy() - expected.stress).max() < 2e-5 * abs(expected.stress).max()


def test_training_learns_and_resumes(recipes, tmp_path: Path) -> None:
    """Thirty steps improve the forces; stopped half-way and resumed they give the same weights, bit for bit."""
    text = (MODELS / "nacl_variants.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("data", "steps", "validation", "test"))]
    write(tmp_path / "frames.xyz", read(MODELS / "nacl_variants.xyz.xz", "::15"))
    data = 'data = "frames.xyz"\nvalidation = 20\ntest = 17\nvalidate_every = 10\n'
    recipe = tmp_path / "short.toml"

    def run(out: str, stop: int) -> dict:
        recipe.write_text("\n".join(lines) + "\n" + data + f"steps = {stop}\n")
        settings = recipes.Recipe.read(recipe)
        recipes.train(settings, recipes.Data.prepare(settings, tmp_path), "q", 3, tmp_path / out)
        return dict(np.load(tmp_path / out / "nacl_variants-q-3.npz"))

    import torch

    def cut(out: str, at: int) -> None:
        """As if the training had been stopped at its validation at step ``at``: a checkpoint of a run to step 30."""

        class Stop(Exception):
            pass

        original = torch.save

        def save(state: dict, path: Path) -> None:
            original(state, path)
            if state["step"] == at:
                Path(path).replace(tmp_path / out / "nacl_variants-q-3.pt")
                raise Stop

        torch.save = save
        try:
            with pytest.raises(Stop):
                run(out, 30)
        finally:
            torch.save = original

    whole = run("whole", 30)
    history = torch.load(tmp_path / "whole" / "nacl_variants-q-3.pt", weights_only=True)["history"]
    assert history[-1]["forces_meV_A"] < 0.9 * history[0]["forces_meV_A"]
    report = json.loads((tmp_path / "whole" / "nacl_variants-q-3.json").read_text())
    assert report["frames"] == [40, 20, 17]
    cut("parts", 20)
    again = run("parts", 30)
    assert set(again) == set(whole)
    assert all((again[k] == whole[k]).all() for k in whole)
    with pytest.raises(SystemExit, match="another recipe"):
        run("parts", 40)


def test_mean_pressure_is_held(recipes) -> None:
    """The gradient of the pressure term is that of w (⟨P⟩ − P₀)² with ⟨P⟩ of the frames, and it pulls ⟨P⟩ to P₀; the stress
    in it is the engine's by test_same_as_engine."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    frame = read(MODELS.parent.parent / "tests" / "data" / "water_pbe0_ts.xyz")
    recipe = recipes.Recipe("x", "", ["H", "O"], 4.5, 0, 0, 0, pressure_GPa=0.02, temperature_K=330.0)
    network = recipes.Network([1, 8], 4.5, recipes.VARIANTS["none"], n_radial=3, hidden=(8, 4)).double()
    batch = recipes.Frames([frame], [1, 8], {1: 0.0, 8: 0.0}, recipe).batch(np.arange(1))
    parameters = list(network.w.values())

    def pressure() -> torch.Tensor:
        return recipes.pressures(recipes.predict(network, batch, recipe, training=True)["stress"], batch, recipe)

    virial = recipes.predict(network, batch, recipe, training=False)["stress"][0].diagonal().mean().item()
    kinetic = 192 * 8.617333262e-5 * 330.0 / frame.get_volume()
    assert pressure().item() == pytest.approx(kinetic - virial, rel=1e-12)
    recipe = replace(recipe, pressure_GPa=recipes.GPA * pressure().item() - 0.05)
    held = recipes.MeanPressure()
    own = torch.autograd.grad(held.loss(pressure(), recipe), parameters, allow_unused=True)
    excess = pressure() - recipe.pressure_GPa / recipes.GPA
    expected = torch.autograd.grad((recipe.pressure_weight * excess**2).sum(), parameters, allow_unused=True)
    for a, b in zip(own, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-9)
    optimiser = torch.optim.SGD(parameters, lr=1e-4)
    for _ in range(5):
        optimiser.zero_grad()
        held.loss(pressure(), recipe).backward()
        optimiser.step()
    assert abs(recipes.GPA * pressure().item() - recipe.pressure_GPa) < 0.045
