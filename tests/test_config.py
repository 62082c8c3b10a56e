"""input.toml: every error at once, with its line, its key and the nearest valid key."""

import tomllib
from collections.abc import Iterator
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
        ("steps = 10", "steps = 10\n[model]\ndevice = \"gpu\"", 8, 'must be "cpu", "cuda" or "auto", got "gpu"'),
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


def test_every_key_of_a_crooked_file_has_its_line() -> None:
    text = (
        '# [not.a.table]\n"a.b".\'c d\'.e = """x\n[y]\n\\"\\"\\" z""""\n\n'
        "[ t . u ] # [[no]]\nlong = [ # ]\n  {p = [1, 2], q.r = 'x ] # }'},\n\n  {p = []}, [[3], 'y'],\n]\n"
        "raw = '''\n]] = 3\n'''\nwhen = 1979-05-27 07:32:00\nhex=0xF # end\n"
        '[[t.v]]\n"st\\u0065ps" = 1\n[[t.v]]\n[[t.v.w]]\nk = "]"\n[[t.v.w]]\n[t.v.w.x]\ny.z = {}\n'
    )
    lines = key_lines(text)

    def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*path, key)
            yield from paths(inner, (*path, key))

    assert set(lines) == set(paths(tomllib.loads(text)))
    rows = text.splitlines()
    for keys, line in lines.items():  # every key that is written once stands in the line it is said to be in
        key = keys[-1]
        if isinstance(key, str) and text.count(key) == 1:
            assert key in rows[line - 1], (keys, line)
    expected = {
        ("t", "u", "long"): 7, ("t", "u", "long", 0, "q", "r"): 8, ("t", "u", "long", 1): 10,
        ("t", "u", "long", 2, 0, 0): 10, ("t", "u", "hex"): 16, ("t", "v", 0): 17, ("t", "v", 0, "steps"): 18,
        ("t", "v", 1): 19, ("t", "v", 1, "w", 1): 22, ("t", "v", 1, "w", 1, "x", "y", "z"): 24,
    }  # fmt: skip
    assert {keys: lines[keys] for keys in expected} == expected
    assert key_lines(text.replace("\n", "\r\n")) == lines


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ("repeat = [2, 2]", "in.toml:2: structure.repeat: must have 3 entries"),
        ("repeat = [2, 2, 2, 2]", "in.toml:2: structure.repeat: must have 3 entries"),
        ("repeat = [\n2,\n2.0,\n1]", "in.toml:4: structure.repeat[1]: must be a whole number, got 2.0; write 2"),
        ("repeat = 2", "in.toml:2: structure.repeat: must be a list such as [1, 1, 1], got 2"),
        ("min_distance_A = true", "in.toml:2: structure.min_distance_A: must be a number, got true"),
        ('file = "a.xyz"', "in.toml:3: structure.water: both file and [structure.water] are given"),
        ("index = 0", "in.toml:2: structure.index: has a meaning only together with file"),
        ('file = "a\\u0000"', "in.toml:2: structure.file: must be text without control characters"),
    ],
)
def test_errors_of_the_structure(tmp_path: Path, structure: str, message: str) -> None:
    text = f'[structure]\n{structure}\nwater = {{molecules = 3}}\n[[stage]]\nkind = "nve"\nsteps = 3\n'
    assert any(e.startswith(message) for e in _errors(tmp_path, text)), _errors(tmp_path, text)


def test_contradictions_come_with_the_other_errors(tmp_path: Path) -> None:
    stage = '[[stage]]\nkind = "nve"\ntime_ps = 1.0\nsteps = 1\nvelocities = "maxwell"\nname = 3\n'
    errors = _errors(tmp_path, GOOD + stage)
    assert [e.split(": ", 2)[:2] for e in errors] == [
        ["in.toml:9", "stage[1].temperature_K"], ["in.toml:11", "stage[1].time_ps"], ["in.toml:14", "stage[1].name"],
    ]  # fmt: skip


def test_lists_of_stages(tmp_path: Path) -> None:
    head = "[structure.water]\nmolecules = 3\n"
    assert _errors(tmp_path, head)[0].startswith("in.toml:1: stage: required table is missing")
    assert "a run needs at least one stage" in _errors(tmp_path, "stage = []\n" + head)[0]
    assert "write [[stage]], with two brackets" in _errors(tmp_path, head + '[stage]\nkind = "nve"\n')[0]
    assert _errors(tmp_path, GOOD + "[[stage]]\nsteps = 3\n")[0].startswith("in.toml:9: stage[1].kind: required key")
    path = tmp_path / "in.toml"
    path.write_text(head + '[[stage]]\nkind = "minimise"\n[[stage]]\nkind = "nve"\ntime_ps = 1.0\n[[stage]]\n'
                    'kind = "nve"\nsteps = 3\n')  # fmt: skip
    config, _ = load_config(path)
    assert config.stage_names == ["minimize", "nve", "nve-2"]
    assert [stage.length for stage in config.stage] == [500, 2000, 3]


def test_paths_start_at_the_folder_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "in.toml"
    (tmp_path / "a.xyz").write_text("")
    path.write_text('structure.file = "../a.xyz"\nmodel.file = "own.h5"\n[[stage]]\nkind = "nve"\nsteps = 1\n')
    monkeypatch.chdir(tmp_path)
    config, _ = load_config(Path("sub/in.toml"))
    assert config.structure_path == tmp_path / "sub" / ".." / "a.xyz"
    assert config.model_source == str(tmp_path / "sub" / "own.h5")
    assert config.output_directory == tmp_path / "sub" / "in-run"
    config, _ = load_config(Path("sub/in.toml"), "elsewhere")
    assert config.output_directory == tmp_path / "elsewhere"


def test_output_through_links_and_parents_is_refused(tmp_path: Path) -> None:
    """Row 25."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "to_file").symlink_to(tmp_path / "file")
    (tmp_path / "to_nothing").symlink_to(tmp_path / "nothing")
    up = "../" * len(tmp_path.parts)
    for name in ("to_file", "to_nothing", "file/run", f"{up}etc/passwd", "/etc/passwd"):
        assert "is not a folder; polmd overwrites no foreign files" in _errors(
            tmp_path, GOOD + f'[output]\ndirectory = "{name}"\n'
        )[0], name  # fmt: skip
    for name in ("..", "../", f"../{tmp_path.name}"):
        assert "holds the input file itself" in _errors(tmp_path, GOOD + f'[output]\ndirectory = "{name}"\n')[0]


def test_reference_lists_every_key() -> None:
    text = schema_markdown()
    for _, section in schema_sections():
        for key, field in section.model_fields.items():
            assert field.description, (section.__name__, key)
            assert f"`{key}`" in text or f"[{key}]" in text or f"[[{key}]]" in text, (section.__name__, key)
