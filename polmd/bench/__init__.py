"""Benchmarks: cases as data (``benchmarks/*.toml``), one harness, results as CSV."""

from polmd.bench.cases import load_cases
from polmd.bench.harness import Row, run_cases, write_csv

__all__ = ["Row", "load_cases", "run_cases", "write_csv"]
