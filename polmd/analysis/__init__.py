"""Spectra and other analyses of finished or running runs: reads files, never imports dynamics."""
