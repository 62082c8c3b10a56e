"""Checkpoints: exact, checked, never lost."""

import math
import os

import numpy as np
import pytest

from polmd.errors import OutputError
from polmd.output import check_compatible, checkpoint, read_checkpoint, write_checkpoint
from polmd.output import files as files_module


def same(a, b):
    """Equal types and, for floats and arrays, equal bits."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray | np.generic):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, float):
        assert np.float64(a).tobytes() == np.float64(b).tobytes()
    else:
        assert a == b


def content(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "step": seed,
        "time_fs": 0.1 + seed / 3,
        "positions": rng.normal(size=(7, 3)),
        "numbers": np.array([8, 1, 1]),
        "nested": {"empty": {}, "list": [1, 2.5, None, "x", [True, False], {"a": b"\0\xff"}], "Å": "Ångström\n"},
    }


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoint"
    data = {
        **content(3),
        "floats": [0.0, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 0.1 + 0.2, math.pi],
        "integers": [0, -1, 2**53 + 1, 2**127 + 12345, -(10**60)],
        "arrays": [
            np.zeros((0, 3)),
            np.array(1.5),
            np.arange(24, dtype=np.float32).reshape(2, 3, 4),
            np.array([True, False]),
            np.array([1 + 2j]),
            np.array(["O", "H"]),
            np.array([np.nan, -0.0]),
            np.arange(5, dtype=np.uint8),
        ],
        "scalars": [np.float32(0.1), np.int64(-5), np.bool_(True), np.float64(0.3)],
        "$array": "a key that looks like a reference",
        "escaped": {"$bytes": [3, 0], "b": 1},
        "none": None,
    }
    write_checkpoint(path, data)
    read = read_checkpoint(path)
    same(read.content, data)
    assert read.path == path and read.message is None
    read.content["positions"][0] = 0.0  # arrays belong to the caller
    strided = np.arange(12.0).reshape(3, 4)[:, ::2]
    write_checkpoint(path, {"strided": strided, "big": strided.astype(">f8"), "tuple": (1, 2)})
    read = read_checkpoint(path).content
    np.testing.assert_array_equal(read["strided"], strided)
    np.testing.assert_array_equal(read["big"], strided)
    assert read["tuple"] == [1, 2]


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_random_generators_go_on(tmp_path, name):
    rng = np.random.Generator(getattr(np.random, name)(42))
    rng.normal(size=101)
    rng.integers(10, dtype=np.uint32)  # leaves half a word behind
    write_checkpoint(tmp_path / "c", {"rng": rng.bit_generator.state})
    expected = rng.normal(size=10), rng.integers(10, size=3, dtype=np.uint32)
    again = np.random.Generator(getattr(np.random, name)(0))
    again.bit_generator.state = read_checkpoint(tmp_path / "c").content["rng"]
    np.testing.assert_array_equal(again.normal(size=10), expected[0])
    np.testing.assert_array_equal(again.integers(10, size=3, dtype=np.uint32), expected[1])


@pytest.mark.parametrize("bad", [{1: 2}, {"x": object()}, {"x": {"y": [np.array([object()])]}}, {"x": {1, 2}}])
def test_what_cannot_be_kept_is_refused_before_writing(tmp_path, bad):
    with pytest.raises(TypeError, match="checkpoint"):
        write_checkpoint(tmp_path / "c", bad)
    assert list(tmp_path.iterdir()) == []


def test_rotation(tmp_path):
    path = tmp_path / "c"
    for k in range(3):
        write_checkpoint(path, content(k))
        assert read_checkpoint(path).content["step"] == k
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.prev"]
    path.unlink()
    read = read_checkpoint(path)
    same(read.content, content(1))
    assert read.path == checkpoint.previous(path)
    assert "No such file" in read.message and "using the one before it, c.prev" in read.message


def test_damage_falls_back(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, content(1))
    write_checkpoint(path, content(2))
    data = path.read_bytes()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        assert read_checkpoint(path).content["step"] == 1
    for extra in (b"\0", data):
        path.write_bytes(data + extra)
        assert read_checkpoint(path).content["step"] == 1
    rng = np.random.default_rng(0)
    for position in [*range(28), *rng.integers(len(data), size=100)]:
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        read = read_checkpoint(path)
        assert read.content["step"] == 1 and "damaged" in read.message
    path.write_bytes(data)
    assert read_checkpoint(path).content["step"] == 2


def test_nothing_usable(tmp_path):
    with pytest.raises(OutputError, match=r"no usable checkpoint.*No such file.*c\.prev: No such file"):
        read_checkpoint(tmp_path / "c")
    (tmp_path / "c").write_bytes(b"PK\3\4 something else")
    with pytest.raises(OutputError, match="is not a checkpoint of polmd"):
        read_checkpoint(tmp_path / "c")


def test_damaged_checkpoint_never_replaces_a_good_previous_one(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, content(1))
    write_checkpoint(path, content(2))
    path.write_bytes(path.read_bytes()[:-1])
    write_checkpoint(path, content(3))
    assert read_checkpoint(path).content["step"] == 3
    path.unlink()
    assert read_checkpoint(path).content["step"] == 1


class Killed(BaseException):
    """Not an Exception: nothing may clean up after it, as nothing does after SIGKILL."""


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_at_every_call(tmp_path, monkeypatch, damaged):
    """Die before each system call of a write in turn, or half-way through a pwrite: one whole checkpoint remains."""
    path = tmp_path / "c"
    deaths = 0
    for fatal in range(100):
        with monkeypatch.context() as patch:
            for file in tmp_path.iterdir():
                file.unlink()
            write_checkpoint(path, content(1))
            write_checkpoint(path, content(2))
            if damaged:
                path.write_bytes(b"rubbish")
            calls = iter(range(100))
            for name in ("replace", "fsync", "open", "close", "pwrite"):
                patch.setattr(os, name, killing(getattr(os, name), calls, fatal, half=name == "pwrite"))
            try:
                write_checkpoint(path, content(3))
            except Killed:
                deaths += 1
                finished = False
            else:
                finished = True
        step = read_checkpoint(path).content["step"]
        if finished:
            assert step == 3
            break
        assert step in ((1, 3) if damaged else (2, 3))
        write_checkpoint(path, content(4))
        assert read_checkpoint(path).content["step"] == 4
    assert deaths >= 6


def killing(real, calls, fatal, half):
    def call(*arguments, **options):
        if next(calls) == fatal:
            if half:
                fd, data, offset = arguments
                real(fd, data[: len(data) // 2], offset)
            raise Killed
        return real(*arguments, **options)

    return call


def test_full_disk_keeps_the_current_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_checkpoint(path, content(1))

    def full(fd, data, offset):
        os.pwrite(fd, data[:10], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module, "write_all", full)
    with pytest.raises(OutputError, match=r"cannot write .*/c: No space left on device"):
        write_checkpoint(path, content(2))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert read_checkpoint(path).content["step"] == 1


def test_other_runs_are_refused_with_the_differences():
    stored = {"model": "abc", "atoms": "192", "polmd": "0.1.0", "only before": "x"}
    check_compatible(stored, dict(stored))
    with pytest.raises(OutputError) as caught:
        check_compatible(stored, {"model": "abd", "atoms": "192", "polmd": "0.2.0", "only now": "y"})
    text = str(caught.value)
    assert "model: abc in the checkpoint, abd now" in text
    assert "polmd: 0.1.0 in the checkpoint, 0.2.0 now" in text
    assert "only before: x in the checkpoint, (absent) now" in text
    assert "only now: (absent) in the checkpoint, y now" in text
    assert "atoms" not in text
