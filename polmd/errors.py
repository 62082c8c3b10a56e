"""Errors a user can mend. The command line prints their text without a traceback; every text names the file, key, atom
or frame and says what to do."""


class PolmdError(Exception):
    """Base of every error that polmd raises for a reason the user can act on."""


class InputError(PolmdError, ValueError):
    """Bad input: a structure, a key of input.toml, a model file, an argument."""


class SimulationError(PolmdError, RuntimeError):
    """A run that cannot go on: energies or forces not finite, atoms gone, limits exceeded."""


class OutputError(PolmdError, OSError):
    """Files of a run that cannot be written, read or continued."""
