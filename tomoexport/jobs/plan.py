"""What an operation is going to do, known before any long work: units, problems, sizes."""

import os
from dataclasses import dataclass, field

from ..errors import InputError, UnitError
from ..io.manifest import fingerprint

PROCESS_BYTES = 250 << 20  # interpreter, libraries, compiled kernels
RESULTS = 2  # to be raised when the same inputs and options give other numbers, so that nothing older is kept


@dataclass(frozen=True)
class Problem:
    """Something the user should know.

    Attributes
    ----------
    severity : str
        'error' stops everything, 'failed' only this tilt series, 'warning' nothing.
    item, cause, remedy : str
    """

    severity: str
    item: str
    cause: str
    remedy: str = ""

    def __str__(self):
        text = "%s: %s." % (self.item, self.cause.rstrip("."))
        return text + (" %s." % self.remedy.rstrip(".") if self.remedy else "")


@dataclass
class Unit:
    """One tilt series of one operation.

    Attributes
    ----------
    name : str
        The tilt series.
    series : TiltSeries or None
        Only the tilts that are used.
    total_tilts : int
        With the excluded ones.
    work : object
        What the operation is to do with it: a record of its own.
    facts : dict of str to object
        What people are told of it, by name.
    depends : dict of str to object
        Everything that determines the outputs, plain values by name: the options, and what is read.
    error : Problem or None
        Why it cannot be worked on.
    inputs : dict of str to list
        Files that it was planned with, and their `state`.
    disk_bytes : int
        What it is going to write.
    """

    name: str
    series: object = None
    total_tilts: int = 0
    work: object = None
    facts: dict = field(default_factory=dict)
    depends: dict = field(default_factory=dict)
    error: Problem = None
    inputs: dict = field(default_factory=dict)
    disk_bytes: int = 0

    @property
    def fingerprint(self):
        """Of everything that determines the outputs."""
        return fingerprint(RESULTS, self.depends)

    def check_inputs(self):
        """See that the files are those that were planned with.

        Raises
        ------
        UnitError
            If one has been removed or has changed.
        """
        for path, planned in self.inputs.items():
            if not os.path.exists(path):
                raise UnitError(path, "it has been removed since the work was planned", "Bring it back and run again")
            if state(path) != planned:
                raise UnitError(path, "it has changed since the work was planned", "Run again when it is complete")


def state(path):
    """What tells whether a file is still the same.

    Parameters
    ----------
    path : str

    Returns
    -------
    list of int
        Size in bytes, time of the last change in nanoseconds.
    """
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


@dataclass
class Plan:
    """Everything one run will do.

    Attributes
    ----------
    verb : str
    options : object
        The verb's options.
    units : list of Unit
    problems : list of Problem
    memory_bytes : int
        Estimate of what the process needs at its peak.
    reading : list of str
        How the inputs were read: lines for people.
    done : int
        Units whose results are there already.
    """

    verb: str
    options: object
    units: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    memory_bytes: int = 0
    reading: list = field(default_factory=list)
    done: int = 0

    @property
    def disk_bytes(self):
        """What all units write together."""
        return sum(unit.disk_bytes for unit in self.units)

    def raise_errors(self):
        """Raise the problems that stop everything, if there are any.

        Raises
        ------
        InputError
            All of them in one.
        """
        errors = [p for p in self.problems if p.severity == "error"]
        if errors:
            first = errors[0]
            more = "" if len(errors) == 1 else " (and %d more: %s)" % (
                len(errors) - 1, "; ".join(str(p) for p in errors[1:6]))
            raise InputError(first.item, first.cause + more, first.remedy)

    def lines(self):
        """The plan for people.

        Returns
        -------
        list of str
            A line per series; how many there are and are done; how the inputs were read; a line per problem; then disk
            and memory.
        """
        out = []
        for unit in self.units:
            if unit.error:
                out.append("%s: cannot be used: %s" % (unit.name, unit.error))
            else:
                used = unit.series.geometry.n_tilts if unit.series else unit.total_tilts
                facts = ["%d of %d tilts" % (used, unit.total_tilts)] if unit.total_tilts else []
                facts += ["%s %s" % pair for pair in unit.facts.items()]
                out.append("%s: %s" % (unit.name, ", ".join(facts) or "ready"))
        series = sum(unit.series is not None for unit in self.units)
        if series:
            out.append("%d tilt series, %s" % (len(self.units), "all of them done already" if self.done == len(
                self.units) else "done: %d of %d" % (self.done, len(self.units))))
        out += self.reading + ["%s: %s" % (p.severity, p) for p in self.problems]
        out.append("disk %s, memory %s" % (size(self.disk_bytes), size(self.memory_bytes)))
        return out


def size(n):
    """A number of bytes for people.

    Parameters
    ----------
    n : int or float
        Bytes.

    Returns
    -------
    str
        Three digits and a decimal unit, such as ``1.23 GB``.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return "%.3g %s" % (n, unit)
        n /= 1000.0
    return "%.3g TB" % n
