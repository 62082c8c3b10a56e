"""XYZ files: correct ones are read, every fault gets its line, nothing in the file is used or dropped in silence."""

from pathlib import Path

import numpy as np
import pytest

import polmd
from polmd.structures import check_system, read_structure
from polmd.units import VELOCITY_FROM_ASE

HEAD = 'Lattice="10 0 0 0 11 0 0 0 12" Properties=species:S:1:pos:R:3'
GOOD = f"2\n{HEAD}\nO 0 0 0\nH 0.96 0 0\n"
OTHER = GOOD.replace("0.96", "0.97")


def _read(tmp_path: Path, text: str, index: int = -1, name: str = "a.xyz") -> tuple[polmd.System, list[str]]:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_structure(path, index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("2\n", "3\n", 1), "line 1 promises 3 atoms, the file has 2"),
        (GOOD.replace("2\n", "1\n", 1), "line 4: 'H 0.96 0 0' is not a number of atoms; line 1 promises 1 atoms"),
        (GOOD.replace("0.96 0 0", "0.96 0"), r"line 4: atom 1 \(counted from 0\) has 3 columns, .* needs 4"),
        (GOOD.replace("0 0 0\nH", "0 0 0 7\nH"), r"line 3: atom 0 \(counted from 0\) has 5 columns, .* needs 4"),
        (GOOD.replace("0.96", "0.96D+00"), r"line 4: 0.96D\+00 has a Fortran exponent; write E"),
        (GOOD.replace("0.96", "-.96d0"), r"line 4: -.96d0 has a Fortran exponent"),
        (GOOD.replace('"10 ', '"1.0D+01 '), r"line 2: 1.0D\+01 has a Fortran exponent"),
        (GOOD.replace("0.96", "******"), r"line 4: pos of atom 1 \(counted from 0\) is \*+, not a number"),
        (GOOD.replace("H ", "D "), "line 4: D is no element symbol; write H, and its mass in a column masses"),
        (GOOD.replace("H ", "OW "), "line 4: 'OW' is no element symbol"),
        (GOOD.replace("H ", "1 "), "line 4: '1' is no element symbol; write the symbol, or name the column Z:I:1"),
        (GOOD.replace(":pos:R:3", ""), "line 2: Properties=species:S:1 must name pos:R:3"),
        (GOOD.replace("pos:R:3", "pos:R"), "line 2: Properties=.* must name pos:R:3"),
        ("hello\nworld\n", "line 1: 'hello' is not a number of atoms"),
        ("0\n\n", "line 1: the structure has no atoms"),
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("2", "line 1 promises 2 atoms, the file has 0"),
    ],
)
def test_faults_get_their_line(tmp_path: Path, text: str, message: str) -> None:
    for index in (0, -1):  # a wrong count shows for the first frame, too, which ASE would not notice
        with pytest.raises(polmd.InputError, match=r"a\.xyz: " + message):
            _read(tmp_path, text, index)


def test_lines_are_counted_through_all_frames(tmp_path: Path) -> None:
    with pytest.raises(polmd.InputError, match="line 8: atom 1"):
        _read(tmp_path, GOOD + OTHER.replace("0.97 0 0", "0.97"))
    assert _read(tmp_path, GOOD + OTHER.replace("0.97 0 0", "0.97"), 0)[0].positions[1, 0] == 0.96


@pytest.mark.parametrize("gap", ["", "\n", "\n  \n"])
def test_frames(tmp_path: Path, gap: str) -> None:
    text = GOOD + gap + OTHER + gap
    for index, expected in ((0, 0.96), (1, 0.97), (-1, 0.97), (-2, 0.96)):
        assert _read(tmp_path, text, index)[0].positions[1, 0] == expected
    for index in (2, -3):
        with pytest.raises(polmd.InputError, match=f"has no frame {index}, it has 2"):
            _read(tmp_path, text, index)


@pytest.mark.parametrize(
    "text",
    [GOOD.replace("\n", "\r\n"), GOOD + "\n", GOOD.rstrip("\n"), GOOD.replace("H ", "  h\t")],
    ids=["CRLF", "blank end", "no end of line", "tab"],
)
def test_harmless_variants_read_the_same(tmp_path: Path, text: str) -> None:
    system, _ = _read(tmp_path, text)
    assert np.array_equal(system.numbers, [8, 1])
    assert np.array_equal(system.positions, [[0, 0, 0], [0.96, 0, 0]])
    assert np.array_equal(system.cell, np.diag([10.0, 11.0, 12.0])) and system.pbc.all()


def test_names_with_at_signs_and_spaces(tmp_path: Path) -> None:
    assert len(_read(tmp_path, GOOD, name="wässer @1.xyz")[0]) == 2


def test_cell_in_vec_rows(tmp_path: Path) -> None:
    text = "1\nold style\nO 0 0 0\nVEC1 9 0 0\nVEC2 0 8 0\nVEC3 0 0 7\n"
    system, _ = _read(tmp_path, text)
    assert np.array_equal(system.cell, np.diag([9.0, 8.0, 7.0])) and system.pbc.all()


def test_what_is_used_and_what_is_not_is_said(tmp_path: Path) -> None:
    names = ":momenta:R:3:forces:R:3:force:R:3:REF_forces:R:3:vel:R:3:masses:R:1"
    rows = "O 0 0 0 1 0 0" + " 5 5 5" * 4 + " 15.999\nH 0.96 0 0 0 2 0" + " 5 5 5" * 4 + " 2.014\n"
    system, notes = _read(tmp_path, f"2\n{HEAD}{names} energy=-3.0\n{rows}")
    expected = np.array([[1 / 15.999, 0, 0], [0, 2 / 2.014, 0]]) * VELOCITY_FROM_ASE
    np.testing.assert_allclose(system.velocities, expected, rtol=1e-14)
    assert np.array_equal(system.masses, [15.999, 2.014])
    assert notes[1:] == [
        "velocities taken from the column momenta",
        "masses taken from the file",
        "not used: REF_forces, energy, force, forces, vel",
    ]
    _, notes = _read(tmp_path, "2\nplain\nO 0 0 0 1 2 3\nH 0.96 0 0 1 2 3\n")
    assert notes[1:] == ["not used: 3 further columns, the file does not say what they are"]
    _, notes = _read(tmp_path, GOOD.replace(":pos:R:3", ":pos:R:3:move_mask:L:1").replace("0 0\n", "0 0 F\n"))
    assert notes[1:] == ["fixed atoms taken from the file: 2"]


@pytest.mark.parametrize("name", ["mass", "masses"])
def test_masses_of_deuterium(tmp_path: Path, name: str) -> None:
    text = GOOD.replace(":pos:R:3", f":pos:R:3:{name}:R:1").replace("O 0 0 0", "O 0 0 0 15.999")
    system, _ = _read(tmp_path, text.replace("0.96 0 0", "0.96 0 0 2.014"))
    assert system.masses[1] == 2.014
    system, _ = _read(tmp_path, text.replace("0.96 0 0", "0.96 0 0 nan"))
    with pytest.raises(polmd.InputError, match="masses of atom 1"):
        check_system(system, elements=[1, 8], min_distance_A=0.5)


def test_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text("water\n1.0\n10 0 0\n0 10 0\n0 0 10\nO H\n1 1\nCartesian\n0 0 0\n0.96 0 0\n")
    system, _ = read_structure(path)
    assert np.array_equal(system.numbers, [8, 1]) and system.pbc.all()
    path.write_text(path.read_text().replace("0.96", "0.96D+00"))
    with pytest.raises(polmd.InputError, match=r"POSCAR: .*line 10: 0.96D\+00 has a Fortran exponent"):
        read_structure(path)
    (tmp_path / "unknown.foo").write_text("abc")
    with pytest.raises(polmd.InputError, match="does not recognise the format"):
        read_structure(tmp_path / "unknown.foo")
    with pytest.raises(polmd.InputError, match="no such structure file"):
        read_structure(tmp_path / "missing.xyz")
