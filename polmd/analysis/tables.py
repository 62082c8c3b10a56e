"""Results as CSV and HDF5: columns with units in their names, and how they were made."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polmd.errors import OutputError
from polmd.output.files import write_atomically


def check_free(paths: Sequence[Path | None], overwrite: bool) -> None:
    """Refuse files that exist, before anything is computed."""
    for path in paths:
        if path is not None and path.exists() and not overwrite:
            raise OutputError(f"{path} exists; choose another name or give --overwrite")


def write_table(path: Path, columns: Mapping[str, np.ndarray], notes: Sequence[str]) -> None:
    """Write equally long columns: HDF5 for .h5 and .hdf5 (a dataset each, ``notes`` as attribute), else CSV with the notes
    as lines that begin with #."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        import h5py

        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for name, column in columns.items():
                file.create_dataset(name, data=column)
            file.attrs["notes"] = list(notes)
        write_atomically(path, content.getvalue())
        return
    lines = [f"# {note}" for note in notes] + [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(",".join("" if np.isnan(x) else f"{x:.10g}" for x in row))
    write_atomically(path, ("\n".join(lines) + "\n").encode())
