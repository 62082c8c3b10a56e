"""Potential and dynamics on NVIDIA GPUs: what ``device = "cuda"`` stands for (polmd/device.py names it)."""
