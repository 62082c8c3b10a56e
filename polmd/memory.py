"""How the process gets memory."""

from __future__ import annotations

import ctypes
import functools
import os


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones.

    Every step makes arrays of up to some megabytes. glibc gives such memory back to the system at once, and the pages of
    every new array are then cleared and mapped again: a quarter of the time of a mesh of 48³ points, and half of that of
    the neighbour list of 192 atoms, under a lock that holds up the other threads. Settings of the user (``MALLOC_…`` in
    the environment) are left alone; C libraries without ``mallopt`` are too.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # <malloc.h>
    for option, value in ((m_mmap_max, 0), (m_trim_threshold, 1 << 30), (m_top_pad, 64 << 20)):
        mallopt(option, value)
