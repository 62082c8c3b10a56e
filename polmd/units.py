"""Units: eV, Å, e, amu inside; femtoseconds and kelvin at the interfaces (CODATA 2018 through ASE)."""

from ase.units import create_units

_codata = create_units("2018")

#: Boltzmann constant, eV/K.
BOLTZMANN: float = _codata["kB"]
#: Acceleration of 1 eV/Å on 1 amu, Å/fs². Kinetic energy in eV is ½ m v² / ACCELERATION with m in amu, v in Å/fs.
ACCELERATION: float = _codata["fs"] ** 2
#: One ASE velocity unit, √(eV/amu), in Å/fs: v[Å/fs] = v[ASE] · VELOCITY_FROM_ASE.
VELOCITY_FROM_ASE: float = _codata["fs"]
#: 1 eV/Å³ in GPa.
GIGAPASCAL: float = 1.0 / _codata["GPa"]
#: 1 bar in eV/Å³.
BAR: float = _codata["bar"]
#: 1 amu/Å³ in g/cm³.
DENSITY: float = 1e24 * _codata["_amu"] * 1e3
#: 1/ε0 in eV Å/e²: SI constants, not the rounded one that a model was trained with.
INVERSE_VACUUM_PERMITTIVITY: float = 1e10 * _codata["_e"] / _codata["_eps0"]
#: Speed of light, Å/fs.
LIGHT: float = _codata["_c"] * 1e-5
#: Planck constant h, eV fs.
PLANCK: float = _codata["_hplanck"] / _codata["_e"] * 1e15
