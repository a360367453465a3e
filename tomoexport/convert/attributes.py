"""Extra attributes on the items of Scipion sets, for what Scipion's model has no field for.

They travel with the items through copies that other plugins make by ``clone`` and are absent from sets that those
plugins build anew; whoever reads them has a default.
"""

from pyworkflow.object import Float, Integer, String

# Of a tilt image: rotation about x, degrees.
XTILT = "_tomoexportXTilt"
# Of a tilt series: +1 or -1 (rlnTomoHand); what its transforms are about, 'imod' or 'relion'; extent of the tomogram,
# angstrom, 'x y z'; name that its source gave it, where Scipion does not allow it as tsId.
HAND = "_tomoexportHand"
CENTRE = "_tomoexportCentre"
SIZE = "_tomoexportSize"
NAME = "_tomoexportName"
# Of a tilt series, as RELION fits or is told them: how defocus changes with depth (rlnTomoDefocusSlope), and decay per
# dose, A^2 (rlnCtfBfactorPerElectronDose); the plain values are 1 and 0.
SLOPE = "_tomoexportDefocusSlope"
DECAY = "_tomoexportDoseBfactor"
# Of a tilt series in a set of failures: why.
ERROR = "_tomoexportError"
# Of the CTF of a tilt: B factor (A^2) and factor of the amplitude, empty where a table of RELION has none.
BFACTOR = "_tomoexportBfactor"
SCALE = "_tomoexportScale"
# Of a coordinate: unique name of the particle, and the other columns of its table as JSON; of the set of coordinates:
# the columns that are the same for all.
UID = "_tomoexportUid"
COLUMNS = "_tomoexportColumns"
# How the particle moves from where it is, over the dose, as JSON: see `convert.movement`.
MOVEMENT = "_tomoexportMovement"
# Of a sub-tomogram: its 3D CTF, and how many tilts it was made of; of the set: the STAR file.
CTF_FILE = "_ctf3D"
TILTS = "_tomoexportTilts"
# Of a pseudo-subtomogram: how its box is turned in the tomogram, as JSON of RELION's rot, tilt and psi; the transform
# is that of the particle in its box.
BOX = "_tomoexportBox"
STAR = "_tomoexportStar"
# Of an image of a particle: dose with the exposure, e/A^2.
DOSE = "_tomoexportDose"


def put(obj, name, value):
    """Set an extra attribute; every item of a set needs the same ones, so a missing value is an empty text."""
    kind = {int: Integer, float: Float}.get(type(value), String)
    setattr(obj, name, kind(value))


def take(obj, name, default=None):
    """Return the plain value of an extra attribute, or ``default`` where it is absent or empty."""
    value = getattr(obj, name, None)
    value = value.get() if value is not None else None
    return default if value is None or value == "" else value
