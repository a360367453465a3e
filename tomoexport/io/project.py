"""Aligned tilt series, whichever program described them.

A source is a class in a module of its own and stands in `SOURCES`; a new one needs no more.  It has

``NAME``, ``TAKES``, ``HAS_CTF``
    What it is called, what it takes (a few words), and whether it can have a CTF;
``recognise(path)``
    whether a file or folder is its;
``Source(path, given)``
    which looks at it, and has ``names`` (of the tilt series, in their order), ``left_out`` (those that the program was
    told to leave out, with the reason) and ``notes``;
``files(name)``
    the files that describe a tilt series;
``read(name)``
    a `TiltSeries`, or an InputError;
``relion_finds_it()``
    whether RELION 5 can read the table as it is.
"""

import os
from collections.abc import Sequence

from ..errors import InputError
from .given import Given
from .imod import ImodAlignment
from .relion5 import RelionTables
from .warpxml import WarpXml

SOURCES = (ImodAlignment, WarpXml, RelionTables)


class Project(Sequence):
    """The tilt series that a file or folder describes: a sequence of those that can be read.

    Parameters
    ----------
    source : object
        One of `SOURCES`, opened.
    names : sequence of str
        The tilt series that are asked for.

    Attributes
    ----------
    source : object
    names : tuple of str
        All tilt series that are asked for, those that cannot be read too.
    faults : dict of str to InputError
        Why the others cannot be read.
    left_out : dict of str to str
        Those that their program was told to leave out, with the reason.
    notes : tuple of str
        What is odd about the files, but no obstacle.
    """

    def __init__(self, source, names):
        self.source, self.names, self.left_out, self.notes = source, tuple(names), source.left_out, source.notes
        self.faults, self._series = {}, []
        for name in self.names:
            try:
                self._series.append(source.read(name))
            except InputError as error:
                self.faults[name] = error

    def __len__(self):
        return len(self._series)

    def __getitem__(self, index):
        return self._series[index]

    def files(self, name):
        """The files that describe a tilt series: what has to be looked at to see whether it changed.

        Parameters
        ----------
        name : str

        Returns
        -------
        list of str
            Those that exist.
        """
        return [path for path in self.source.files(name) if os.path.exists(path)]

    def complete(self):
        """The project itself, if all tilt series can be read.

        Returns
        -------
        Project

        Raises
        ------
        InputError
            The fault of the first that cannot.
        """
        for error in self.faults.values():
            raise error
        return self


def open_source(path, given=None):
    """Find the source of a file or folder, and let it look at it.

    Parameters
    ----------
    path : str
    given : Given, optional

    Returns
    -------
    object
        One of `SOURCES`.

    Raises
    ------
    InputError
        If there is no such file, no source recognises it, or what it names cannot be told.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise InputError(path, "there is no such file", "Check the path")
    kind = next((source for source in SOURCES if source.recognise(path)), None)
    if kind is None:
        raise InputError(path, "it describes no tilt series",
                         "Give " + "; or ".join(source.TAKES for source in SOURCES[::-1]))
    source = kind(path, given)
    if given and given.alignment_pixel_size and kind is not ImodAlignment:
        source.notes += ("--alignment-pixel-size is of IMOD's alignments; that of %s is in angstrom" % kind.NAME,)
    return source


def read_project(path, names=None, given=None):
    """Read aligned tilt series.

    Parameters
    ----------
    path : str
        What one of `SOURCES` takes.
    names : sequence of str, optional
        Tilt series to read, in this order. All by default.
    given : Given, optional
        What the files lack.

    Returns
    -------
    Project

    Raises
    ------
    InputError
        As `open_source`; also if a name is not there.
    """
    source = open_source(path, given or Given())
    for name in names or ():
        if name not in source.names:
            raise InputError(path, "there is no tilt series %s" % name,
                             "The names are: %s" % ", ".join(source.names))
    return Project(source, source.names if names is None else names)
