"""What an input says beyond that which every operation takes from it.

A table, an XML or a command file may state something that changes where particles are seen, how they look or which of
them count, and that not every operation can follow.  Readers note each such statement; `jobs.statements` tells, for
every operation alike, which are followed and which are not.
"""

from dataclasses import dataclass

#: What a statement changes.
LOCAL, GLOBAL, OPTICS, WEIGHTS, SELECTION = "local", "global", "optics", "weights", "selection"
KINDS = (LOCAL, GLOBAL, OPTICS, WEIGHTS, SELECTION)


@dataclass(frozen=True)
class Statement:
    """One statement of one input.

    Attributes
    ----------
    label : str
        Column, element or entry, as the file spells it.
    place : str
        The file, with its line, block or element.
    kind : str
        What it changes: ``local``, where the alignment varies within an image; ``global``, where a tilt as a whole is
        seen; ``optics``, phases and amplitudes of the CTF; ``weights``, how much tilts and frequencies count;
        ``selection``, which tilts or series count.
    effect : str
        What it would change, for people.
    """

    label: str
    place: str
    kind: str
    effect: str

_PHASES = "the phases of the images, which a refinement that knows of it corrects"
#: Columns of RELION's optics, wherever they stand.
ABERRATIONS = {
    "rlnOddZernike": (OPTICS, _PHASES), "rlnBeamTiltX": (OPTICS, _PHASES), "rlnBeamTiltY": (OPTICS, _PHASES),
    "rlnEvenZernike": (OPTICS, "the phase of the CTF"),
    **{"rlnMagMat" + ij: (OPTICS, "where frequencies lie, by an anisotropic magnification")
       for ij in ("00", "01", "10", "11")}}
_DEFORMED = "where things are seen, by a field of deformations in each image"
#: Columns of RELION's tables of tomograms and tilts.
TILT_SERIES = dict(ABERRATIONS, **{"rlnTomoDeformation" + end: (LOCAL, _DEFORMED) for end in (
    "Type", "GridSizeX", "GridSizeY", "Coefficients")})
_ONE = ("rlnMagMat00", "rlnMagMat11")  # which are 1 where nothing is magnified


def is_nothing(text):
    """Tell whether a value states nothing: it is empty, or a vector of zeros.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool
    """
    words = text.strip("[]() ").replace(",", " ").split()
    try:
        return not any(float(word) for word in words)
    except ValueError:
        return text in ("None", "<NA>")


def of_columns(table, known, place=None):
    """The statements of a table's columns.

    Parameters
    ----------
    table : star.Table
    known : dict of str to (str, str)
        Columns that state something, with kind and effect of each.
    place : str, optional
        By default that of the table.

    Returns
    -------
    tuple of Statement
        Of the columns that have a value that is not empty and not 0.
    """
    return tuple(Statement(label, place or table.where(), *known[label]) for label in table.columns
                 if label in known and any(_says(label, text) for text in table.text(label)))


def _says(label, text):
    if label in _ONE:
        try:
            return abs(float(text) - 1) > 1e-9
        except ValueError:
            pass
    return not is_nothing(text)
