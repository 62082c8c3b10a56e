"""input.toml: every error at once, with its line, its key and the nearest valid key."""

from pathlib import Path

import pytest

import polmd
from polmd.config import load_config, schema_markdown, schema_sections
from polmd.toml_lines import key_lines

GOOD = """\
seed = 1
[structure.water]
molecules = 3
[[stage]]
kind = "nvt"
steps = 10
temperature_K = 300.0
timestep_fs = 0.5
"""


def _errors(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "in.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(polmd.InputError) as caught:
        load_config(path)
    return str(caught.value).replace(str(path), "in.toml").splitlines()


def test_all_errors_at_once_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("seed = 1", 'seed = "1"').replace(
        "temperature_K = 300.0", "temperature_K = -3.0\nfrcition = 2.0"
    )
    errors = _errors(tmp_path, text.replace("molecules", "molecule"))
    assert [e.split(" ")[0] for e in errors] == [
        "in.toml:1:", "in.toml:2:", "in.toml:3:", "in.toml:7:", "in.toml:8:",
    ]  # fmt: skip
    assert "seed: must be a whole number" in errors[0]
    assert "structure.water.molecules: required key is missing" in errors[1]
    assert "structure.water.molecule: unknown key; did you mean molecules?" in errors[2]
    assert "stage[0].temperature_K: must be at least 0, got -3.0" in errors[3]
    assert "stage[0].frcition: unknown key; did you mean friction_per_ps?" in errors[4]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("timestep_fs = 0.5", "timestep_fs = 500.0", 8, "far too long"),
        ("timestep_fs = 0.5", "timestep = 0.5", 8, "did you mean timestep_fs? (the unit, fs, is part of the key)"),
        ("timestep_fs = 0.5", "dt = 0.5", 8, "did you mean timestep_fs?"),
        ("temperature_K = 300.0", 'temperature_K = "300"', 7, "must be a number, got \"300\"; remove the quotes"),
        ("temperature_K = 300.0", "temperature_K = nan", 7, "must be"),
        ("temperature_K = 300.0", "temperature_K = inf", 7, "must be a finite number"),
        ("temperature_K = 300.0\n", "", 4, "stage[0].temperature_K: required key is missing"),
        ("steps = 10", "steps = 10.5", 6, "must be a whole number"),
        ('kind = "nvt"', 'kind = "ntv"', 5, 'did you mean "nvt"?'),
        ("seed = 1", "seed = 1\nseed = 2", 2, "given twice"),
        ("steps = 10", "steps = 10\n[model]\ndevice = \"gpu\"", 8, 'must be "cpu", got "gpu"'),
    ],
)  # fmt: skip
def test_single_errors(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if "[model]" in new:  # keys after a new table belong to it
        text = GOOD + new.removeprefix("steps = 10\n")
        line = 10
    errors = _errors(tmp_path, text)
    assert any(e.startswith(f"in.toml:{line}:") and message in e for e in errors), errors


def test_files_that_are_not_toml(tmp_path: Path) -> None:
    assert "the file is empty" in _errors(tmp_path, "")[0]
    assert "only comments" in _errors(tmp_path, "# nothing\n")[0]
    assert _errors(tmp_path, GOOD.encode() + b"# \xff\n")[0].startswith("in.toml:9: byte 0xff is not valid UTF-8")
    assert "byte-order mark" in _errors(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())[0]
    assert _errors(tmp_path, GOOD + "a = = 1\n")[0].startswith("in.toml:9: not valid TOML")
    with pytest.raises(polmd.InputError, match="no such file"):
        load_config(tmp_path / "none.toml")


def test_short_timestep_warns_and_long_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "in.toml"
    path.write_text(GOOD.replace("0.5", "0.0005"))
    _, warnings = load_config(path)
    assert len(warnings) == 1 and ":8: stage[0].timestep_fs: 0.0005 fs is very short" in warnings[0]
    path.write_text(GOOD.replace("timestep_fs = 0.5", "timestep_fs = 20.0\nforce_timestep = true"))
    config, _ = load_config(path)
    assert config.stage[0].timestep_fs == 20.0


def test_output_never_lands_on_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    errors = _errors(tmp_path, GOOD + '[output]\ndirectory = "precious"\n')
    assert errors[0].startswith("in.toml:10: output.directory:") and "is not a folder" in errors[0]
    errors = _errors(tmp_path, GOOD + '[output]\ndirectory = "."\n')
    assert "holds the input file itself" in errors[0]


def test_stages_shorten_and_fingerprints_tell_runs_apart(tmp_path: Path) -> None:
    path = tmp_path / "in.toml"
    path.write_text(GOOD)
    config, _ = load_config(path)
    short = config.shortened(4)
    assert (config.stage[0].length, short.stage[0].length) == (10, 4)
    assert config.fingerprint() != short.fingerprint()
    assert config.with_output("elsewhere").fingerprint() == config.fingerprint()
    assert short.differences(config.canonical_json()) == ["stage[0].steps: 10 → 4"]


def test_line_locator() -> None:
    text = 'a = 1\n"b c".d = 2\n[x]\ny = [\n  1,\n  2,\n]\nz = """\nq = 3\n"""\n[[s]]\nk = {m = 1, n = 2}\n'
    text += "[[s]]\nk = 5\n[s.t]\nu = 6\n"
    lines = key_lines(text)
    expected = {
        ("a",): 1, ("b c", "d"): 2, ("x",): 3, ("x", "y"): 4, ("x", "z"): 8, ("s", 0): 11, ("s", 0, "k"): 12,
        ("s", 0, "k", "n"): 12, ("s", 1): 13, ("s", 1, "k"): 14, ("s", 1, "t", "u"): 16,
    }  # fmt: skip
    for keys, line in expected.items():
        assert lines[keys] == line, keys
    assert ("x", "q") not in lines


def test_reference_lists_every_key() -> None:
    text = schema_markdown()
    for _, section in schema_sections():
        for key, field in section.model_fields.items():
            assert field.description, (section.__name__, key)
            assert f"`{key}`" in text or f"[{key}]" in text or f"[[{key}]]" in text, (section.__name__, key)
