"""A mutation run of the readers of weights: any bytes give a model or an InputError; nothing hangs, nothing is executed.

    python tests/fuzz_checkpoints.py [--count 100000] [--seed 0]

Every input starts as a valid checkpoint or archive and is changed at the level of operations of the pickle (cut out,
doubled, swapped, replaced by others or by calls of dangerous functions, numbers made extreme), of its bytes, of the
tensors' numbers, or of the whole file. An audit hook reports whatever the interpreter does that reading does not need:
imports, execution, processes, sockets, other files.
"""

from __future__ import annotations

import argparse
import codecs
import itertools
import pickletools
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from random_models import random_model

import polmd
from polmd.model.architecture import Chi, MessagePassing
from polmd.model.importers import read_weights
from polmd.model.importers.npz import write_npz

#: Longest processor time for one input, s, and most memory of the process, bytes.
LIMIT, MEMORY = 20, 6 << 30

_watched: Path | None = None
_events: list[str] = []
_FORBIDDEN = (
    "exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "shutil.", "marshal.", "code.",
    "builtins.input", "webbrowser.", "sys._getframe", "sys.set", "pty.", "signal.",
)  # fmt: skip


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open":
        if str(arguments[0]) != str(_watched):
            _events.append(f"open {arguments[0]}")
    elif event.startswith(_FORBIDDEN):
        _events.append(f"{event} {arguments!r}"[:200])


def _expired(*_: object) -> None:
    raise TimeoutError


CALLS = [
    checkpoints.payload(module, name, argument)
    for module, name, argument in (
        ("os", "system", "touch {marker}"),
        ("builtins", "eval", "open('{marker}', 'w')"),
        ("builtins", "exec", "open('{marker}', 'w')"),
        ("subprocess", "check_output", "touch {marker}"),
        ("importlib", "import_module", "this"),
        ("torch.nn.functional", "silu", "x"),
        ("collections", "OrderedDict", "x"),
        ("torch._utils", "_rebuild_parameter", "x"),
    )
]
_NUMBERS = [b"J" + struct.pack("<i", n) for n in (0, 1, -1, 7, 255, 65536, 2**31 - 1, -(2**31))] + [
    b"G" + struct.pack(">d", x) for x in (0.0, -0.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"))
]
_SMALL = [
    b"N",
    b"\x88",
    b"\x89",
    b")",
    b"]",
    b"}",
    b"X\x01\x00\x00\x00x",
    b"K\x01",
    b"(",
    b"t",
    b"R",
    b"b",
    b"Q",
    b".",
    b"0",
]


class Source:
    """A valid input and ways to spoil it."""

    def __init__(self, tree: object) -> None:
        writer = checkpoints.Writer()
        self.pickle = writer.dump(tree)
        self.members = {f"data/{k}": np.ascontiguousarray(a).tobytes() for k, a in enumerate(writer.storages)}
        places = [at for _, _, at in pickletools.genops(self.pickle)] + [len(self.pickle)]
        self.operations = [self.pickle[a:b] for a, b in itertools.pairwise(places)]

    def whole(self, pickled: bytes | None = None, members: dict[str, bytes] | None = None) -> bytes:
        return checkpoints.archive(
            None,
            pickled=self.pickle if pickled is None else pickled,
            extra=self.members if members is None else members,
        )

    def mutated(self, rng: random.Random, marker: Path) -> bytes:
        kind = rng.random()
        if kind < 0.6:
            return self.whole(self._operations(rng, marker))
        if kind < 0.75:
            return self.whole(_bytes(rng, self.pickle))
        if kind < 0.85:
            members = dict(self.members)
            name = rng.choice(list(members))
            members[name] = _bytes(rng, members[name])
            return self.whole(members=members)
        return _bytes(rng, self.whole())

    def _operations(self, rng: random.Random, marker: Path) -> bytes:
        codes = list(self.operations)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at, other = rng.randrange(1, len(codes)), rng.randrange(1, len(codes))
            length = rng.choice((1, 1, 1, 2, 5, 40))
            what = rng.randrange(7)
            if what == 0:
                del codes[at : at + length]
            elif what == 1:
                codes[at:at] = codes[other : other + length]
            elif what == 2:
                codes[at], codes[other] = codes[other], codes[at]
            elif what == 3:
                codes[at] = rng.choice(CALLS).replace(b"{marker}", str(marker).encode())
            elif what == 4:
                codes.insert(at, rng.choice(CALLS).replace(b"{marker}", str(marker).encode()))
            elif what == 5:
                codes[at] = rng.choice(_NUMBERS + _SMALL)
            else:
                numbers = [k for k, code in enumerate(codes) if code[:1] in (b"J", b"G", b"K", b"M")]
                if numbers:
                    codes[rng.choice(numbers)] = rng.choice(_NUMBERS)
            if len(codes) < 3:
                break
        return b"".join(codes)


def _bytes(rng: random.Random, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        end = at + rng.choice((0, 1, 1, 1, 4, 64))
        out[at:end] = rng.randbytes(rng.choice((0, 1, 1, 1, 4, 64)))
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.05 else out)


def run(count: int, seed: int, directory: Path) -> Counter:
    """Read ``count`` inputs; returns how they ended. Raises AssertionError with the input kept in ``directory``."""
    global _watched
    rng, marker, path = random.Random(seed), directory / "marker", directory / "input.pth"
    layer = MessagePassing(norm=0.5, memory=True, decay=True, chi=Chi(per_level=True, per_channel=True))
    models = [random_model(2, 2, predicts=("charges",)), random_model(2, 3)]
    models.append(random_model(2, 2, predicts=("charges",), n_radial=2, messages=(layer,)))
    sources = [Source(checkpoints.les(m)) for m in models] + [Source(checkpoints.native(models[0]))]
    write_npz(models[1], directory / "a.npz")
    archive = (directory / "a.npz").read_bytes()
    ends: Counter = Counter()
    for k in range(-20, count):  # the first ones import what reading needs
        if rng.random() < 0.05:
            content = _bytes(rng, archive)
        else:
            content = rng.choice(sources).mutated(rng, marker)
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        _watched = path if k >= 0 else None
        try:
            read_weights(path)
            end = "model"
        except polmd.InputError:
            end = "InputError"
        except BaseException:
            end = traceback.format_exc()
        finally:
            _watched = None
            signal.setitimer(signal.ITIMER_PROF, 0)
        if end not in ("model", "InputError") or _events or marker.exists():
            raise AssertionError(f"input {k} of seed {seed}, kept as {path}: {end}; {_events[:3]}; {marker.exists()=}")
        ends[end] += k >= 0
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _expired)
    for name in ("raw_unicode_escape", "latin1", "cp437", "utf-8", "ascii"):
        codecs.lookup(name)  # Python imports a codec when it is first used
    sys.addaudithook(_audit)
    directory = Path(tempfile.mkdtemp(prefix="polmd-fuzz-"))
    start = time.monotonic()
    ends = run(arguments.count, arguments.seed, directory)
    seconds = time.monotonic() - start
    print(f"{arguments.count} inputs in {seconds:.0f} s: {ends['InputError']} refused, {ends['model']} read as models;")
    print("no crash, no hang, nothing executed, imported or opened")


if __name__ == "__main__":
    main()
