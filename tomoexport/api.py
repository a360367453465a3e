"""tomoexport from Python: a function per verb, and reading of projects and particles.

Every function takes the options of its verb, as a record of `tomoexport.options` or by name, and returns what was made.
Input that cannot be used raises `InputError`, which names item, cause and remedy; a tilt series that fails while it is
worked on does not stop the others and is in ``failed`` of the result.  What is finished already, with the same inputs
and options, is not done again.

Examples
--------
>>> import tempfile
>>> from tomoexport import api
>>> folder = tempfile.mkdtemp()
>>> data = api.simulate(output=folder, preset="tiny")
>>> project = api.read_project(data.tomograms)
>>> [series.ts_id for series in project]
['TS_01', 'TS_02']
>>> particles = api.read_particles(data.particles, project)
>>> particles.position.shape
(8, 3)
>>> made = api.subtomo(tomograms=data.tomograms, particles=data.particles, output=folder + "/subtomo",
...                    pixel_size=8.0, box=16, diameter=80.0)
>>> made.kept, made.failed
(8, {})
>>> volume, pixel_size = api.read_volume(made.series["TS_01"].files[0])
>>> volume.shape, round(pixel_size, 3)
((16, 16, 16), 8.0)
"""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from . import options as _options
from .engine.particles import ParticleSet
from .errors import BackendError, InputError, TomoexportError, UnitError
from .io import mrc as _mrc
from .io import particlestar as _particlestar
from .io.given import Given
from .io.project import Project
from .io.project import read_project as _read_project
from .io.tiltseries import TiltSeries
from .jobs import runner as _runner
from .jobs.plan import Plan, Problem, Unit
from .jobs.progress import shown as _shown

__all__ = (
    "average", "check", "duplicates", "intersect", "particle", "pseudosubtomo", "read_particles", "read_project",
    "read_volume", "reconstruct", "select", "series", "simulate", "subtomo",
    "Average", "Export", "Given", "ImageSeries", "Map", "ParticleSubset", "PseudoSubtomograms", "Result",
    "SimulatedData", "Tomogram", "Tomograms", "Worked",
    "ParticleSet", "Plan", "Problem", "Project", "TiltSeries", "Unit",
    "BackendError", "InputError", "TomoexportError", "UnitError")


@dataclass(frozen=True)
class Worked:
    """What became of one tilt series, or of the one unit of a verb that has no more.

    Attributes
    ----------
    name : str
        The tilt series; for verbs on particle sets the verb.
    status : str
        'done', 'skipped' (was done already) or 'failed'.
    error : str
        Why it failed.
    notes : tuple of str
        What was left out or filled in.
    files : tuple of str
        All that was written, whole.
    """

    name: str
    status: str
    error: str = ""
    notes: Tuple[str, ...] = ()
    files: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a verb made.

    Attributes
    ----------
    output : str
        The folder.
    series : dict of str to Worked
        By name, in the order of the table.
    """

    output: str
    series: Dict[str, Worked]

    @property
    def failed(self) -> Dict[str, str]:
        """Tilt series that failed, and why."""
        return {name: one.error for name, one in self.series.items() if one.status == "failed"}


@dataclass(frozen=True)
class SimulatedData(Result):
    """Simulated tilt series with a known truth.

    Attributes
    ----------
    tomograms, particles : str
        STAR files.
    """

    tomograms: str
    particles: str


@dataclass(frozen=True)
class Tomogram:
    """A tomogram.

    Attributes
    ----------
    path : str
    odd, even, deconvolved : str or None
        Paths of what was asked for beside it.
    pixel_size : float
        Angstrom per voxel.
    shape : (int, int, int)
        Voxels, zyx.
    centre : (float, float, float)
        Where the tomogram's centre is, voxels from the first, xyz.
    """

    path: str
    odd: Optional[str]
    even: Optional[str]
    deconvolved: Optional[str]
    pixel_size: float
    shape: Tuple[int, int, int]
    centre: Tuple[float, float, float]


@dataclass(frozen=True)
class Tomograms(Result):
    """Whole tomograms.

    Attributes
    ----------
    tomograms : dict of str to Tomogram
        By tilt series, of those that did not fail.
    """

    tomograms: Dict[str, Tomogram]


@dataclass(frozen=True)
class Export(Result):
    """Particles that were exported.

    Attributes
    ----------
    star : str or None
        The table of particles; None if none is left.
    kept : int
        Number of particles in it.
    dropped : tuple of str
        A line for each particle that is not in it.
    """

    star: Optional[str]
    kept: int
    dropped: Tuple[str, ...]


@dataclass(frozen=True)
class ImageSeries(Export):
    """Image series of particles; ``star`` is the table, or the optimisation set.

    Attributes
    ----------
    exported : str or None
        List of the particles in their order, for `select`.
    images : int
        Number of images.
    advice : tuple of str
        What the program that reads them needs to be told.
    """

    exported: Optional[str]
    images: int
    advice: Tuple[str, ...]


@dataclass(frozen=True)
class PseudoSubtomograms(Export):
    """RELION 5 pseudo-subtomograms.

    Attributes
    ----------
    optimisation_set : str or None
    projected : str
        Folder of tables that say where particles are seen.
    """

    optimisation_set: Optional[str]
    projected: str


@dataclass(frozen=True)
class Average(Result):
    """An average with half maps.

    Attributes
    ----------
    average : str
        The map, beside which are half1.mrc, half2.mrc and fsc.csv.
    resolution : str
        Where the FSC falls to 0.143 and 0.5, for people.
    """

    average: str
    resolution: str


@dataclass(frozen=True)
class Map(Average):
    """A map straight from tilt series.

    Attributes
    ----------
    half1, half2 : str
    kept : int
        Number of particles in it.
    half_particles : (int, int)
    symmetry : str
    dropped : tuple of str
        A line for each other particle.
    """

    half1: str
    half2: str
    kept: int
    half_particles: Tuple[int, int]
    symmetry: str
    dropped: Tuple[str, ...]


@dataclass(frozen=True)
class ParticleSubset(Result):
    """A table of particles made of others.

    Attributes
    ----------
    star : str
    counts : dict of str to int
        Of `intersect`: ``only_old``, ``both``, ``only_new``, ``written``; else ``kept`` and ``removed``.
    """

    star: str
    counts: Dict[str, int] = field(default_factory=dict)


def read_project(path: str, names: Optional[Sequence[str]] = None, given: Optional[Given] = None) -> Project:
    """Read aligned tilt series.

    Parameters
    ----------
    path : str
        RELION's tomograms.star, Warp's XML or a folder of these, or IMOD's .xf.
    names : sequence of str, optional
        Tilt series to read, in this order; all by default.
    given : Given, optional
        What the files lack.

    Returns
    -------
    Project
        A sequence of `TiltSeries`; its ``faults`` says which cannot be read, and why.

    Raises
    ------
    InputError
        If there is no such file, or it describes no tilt series.
    """
    return _read_project(path, names, given)


def read_particles(path: str, project: Optional[Sequence[TiltSeries]] = None, *, coordinates_pixel_size: float = 0.0,
                   normalized: bool = False, centre: str = "relion", allow_loss: bool = False,
                   source: str = "") -> ParticleSet:
    """Read particles in any dialect of RELION 3, 4 and 5, WarpTools or M.

    Parameters
    ----------
    path : str
    project : Project, optional
        Their tilt series, which tell where the corners of tomograms are.
    coordinates_pixel_size : float
        Angstrom per pixel of coordinates that count from the corner; 0 takes it from the table.
    normalized : bool
        Whether coordinates run from 0 to 1 over the tomogram.
    centre : {'relion', 'imod'}
        Which point of the tomogram they are counted about: voxel N/2 or (N-1)/2.
    allow_loss : bool
        Whether particles without tilt series are left out; otherwise they are an error.
    source : str
        M's source file, if its particles are to be told by hash and not by name.

    Returns
    -------
    ParticleSet
        ``position`` `(N, 3)`, angstrom from the tomogram's centre, and ``rotation`` `(N, 3, 3)`, reference to tomogram;
        ``table`` says how the file was read.

    Raises
    ------
    InputError
        If there are no coordinates, a name means no tilt series, or a pixel size is not known.
    """
    return _particlestar.read_particles(
        path, project, coordinates_pixel_size=coordinates_pixel_size or None, normalized=normalized, centre=centre,
        allow_loss=allow_loss, sources=[source] if source else ())[0]


def read_volume(path: str) -> Tuple[np.ndarray, float]:
    """Read an MRC file.

    Parameters
    ----------
    path : str

    Returns
    -------
    volume : ndarray `(nz, ny, nx)` float32
    pixel_size : float
        Angstrom per voxel.

    Raises
    ------
    InputError
        If it is missing, damaged or cut short.
    """
    volume, pixel_size = _mrc.read_volume(path)
    return volume, float(pixel_size)


def check(verb: str, options: Any = None, **values: Any) -> Plan:
    """Plan a verb and write nothing, as ``tomoexport check`` does.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.
    options, **values
        As of the verb's own function.

    Returns
    -------
    Plan
        ``lines()`` are the plan for people; ``units`` have what is known of each tilt series, ``problems`` what is
        wrong or odd.

    Raises
    ------
    InputError
        If the inputs cannot be read at all.
    """
    given = _values(verb, options, values)
    return _runner.plan(verb, _runner.read_options(verb, given), chosen=set(given))


def simulate(options: Optional[_options.SimulateOptions] = None, *, progress: bool = False,
             **values: Any) -> SimulatedData:
    """Simulate tilt series with a known truth; see `options.SimulateOptions`.

    Parameters
    ----------
    options : SimulateOptions, optional
    progress : bool
        Whether progress is printed.
    **values
        Options by name, which go before those of the record.

    Returns
    -------
    SimulatedData

    Raises
    ------
    InputError
    """
    output, worked, found, _ = _run("simulate", options, values, None, progress)
    return SimulatedData(output, worked, found["tomograms"], found["particles"])


def reconstruct(options: Optional[_options.ReconstructOptions] = None, *, only: Optional[Sequence[str]] = None,
                progress: bool = False, **values: Any) -> Tomograms:
    """Reconstruct whole tomograms; see `options.ReconstructOptions`.

    Parameters
    ----------
    options : ReconstructOptions, optional
    only : sequence of str, optional
        Names of the tilt series to work on; all by default.
    progress : bool
        Whether progress is printed.
    **values
        Options by name, which go before those of the record.

    Returns
    -------
    Tomograms

    Raises
    ------
    InputError
        If the inputs cannot be used, or every tilt series failed.
    """
    output, worked, _, results = _run("reconstruct", options, values, only, progress)
    made = {r["ts_id"]: Tomogram(r["tomogram"], r.get("odd"), r.get("even"), r.get("deconv"), r["pixel_size"],
                                 (r["shape"][0], r["shape"][1], r["shape"][2]),
                                 (r["centre"][0], r["centre"][1], r["centre"][2]))
            for r in results if r["status"] != "failed"}
    return Tomograms(output, worked, made)


def subtomo(options: Optional[_options.SubtomoOptions] = None, *, only: Optional[Sequence[str]] = None,
            progress: bool = False, **values: Any) -> Export:
    """Export sub-tomograms with their 3D CTFs; see `options.SubtomoOptions` and `reconstruct` for the parameters.

    Parameters
    ----------
    options : SubtomoOptions, optional
    only : sequence of str, optional
        Tables join all tilt series that were ever finished.
    progress : bool
    **values

    Returns
    -------
    Export

    Raises
    ------
    InputError
        As `reconstruct`.
    """
    output, worked, found, _ = _run("subtomo", options, values, only, progress)
    return Export(output, worked, found["star"], found["kept"], tuple(found["dropped"]))


def series(options: Optional[_options.SeriesOptions] = None, *, only: Optional[Sequence[str]] = None,
           progress: bool = False, **values: Any) -> ImageSeries:
    """Export image series of particles for tomoDRGN or cryoDRGN; see `options.SeriesOptions` and `subtomo`.

    Parameters
    ----------
    options : SeriesOptions, optional
    only : sequence of str, optional
    progress : bool
    **values

    Returns
    -------
    ImageSeries

    Raises
    ------
    InputError
        As `reconstruct`.
    """
    output, worked, found, _ = _run("series", options, values, only, progress)
    return ImageSeries(output, worked, found["star"], found["kept"], tuple(found["dropped"]), found["exported"],
                       found["images"], tuple(found["advice"]))


def pseudosubtomo(options: Optional[_options.PseudosubtomoOptions] = None, *, only: Optional[Sequence[str]] = None,
                  progress: bool = False, **values: Any) -> PseudoSubtomograms:
    """Extract RELION 5 pseudo-subtomograms; see `options.PseudosubtomoOptions` and `subtomo`.

    Parameters
    ----------
    options : PseudosubtomoOptions, optional
    only : sequence of str, optional
    progress : bool
    **values

    Returns
    -------
    PseudoSubtomograms

    Raises
    ------
    InputError
        As `reconstruct`.
    """
    output, worked, found, _ = _run("pseudosubtomo", options, values, only, progress)
    return PseudoSubtomograms(output, worked, found["star"], found["kept"], tuple(found["dropped"]),
                              found["optimisation_set"], found["projected"])


def particle(options: Optional[_options.ParticleOptions] = None, *, only: Optional[Sequence[str]] = None,
             progress: bool = False, **values: Any) -> Map:
    """Reconstruct a particle's map straight from tilt series; see `options.ParticleOptions` and `subtomo`.

    Parameters
    ----------
    options : ParticleOptions, optional
    only : sequence of str, optional
    progress : bool
    **values

    Returns
    -------
    Map

    Raises
    ------
    InputError
        As `reconstruct`; also if one of the halves has no particles.
    """
    output, worked, found, _ = _run("particle", options, values, only, progress)
    return Map(output, worked, found["average"], found["resolution"], found["half1"], found["half2"], found["kept"],
               (found["half_particles"][0], found["half_particles"][1]), found["symmetry"], tuple(found["dropped"]))


def average(options: Optional[_options.AverageOptions] = None, *, progress: bool = False, **values: Any) -> Average:
    """Average exported sub-tomograms; see `options.AverageOptions`.

    Parameters
    ----------
    options : AverageOptions, optional
    progress : bool
    **values

    Returns
    -------
    Average

    Raises
    ------
    InputError
    """
    output, worked, found, _ = _run("average", options, values, None, progress)
    return Average(output, worked, found["average"], found["resolution"])


def intersect(options: Optional[_options.IntersectOptions] = None, *, progress: bool = False,
              **values: Any) -> ParticleSubset:
    """Intersect a set of particles with another one; see `options.IntersectOptions`.

    Parameters
    ----------
    options : IntersectOptions, optional
    progress : bool
    **values

    Returns
    -------
    ParticleSubset

    Raises
    ------
    InputError
    """
    return _subset("intersect", options, values, progress)


def duplicates(options: Optional[_options.DuplicatesOptions] = None, *, progress: bool = False,
               **values: Any) -> ParticleSubset:
    """Remove particles that were picked several times; see `options.DuplicatesOptions`.

    Parameters
    ----------
    options : DuplicatesOptions, optional
    progress : bool
    **values

    Returns
    -------
    ParticleSubset

    Raises
    ------
    InputError
    """
    return _subset("duplicates", options, values, progress)


def select(options: Optional[_options.SelectOptions] = None, *, progress: bool = False,
           **values: Any) -> ParticleSubset:
    """Choose the particles that an analysis of image series kept; see `options.SelectOptions`.

    Parameters
    ----------
    options : SelectOptions, optional
    progress : bool
    **values

    Returns
    -------
    ParticleSubset

    Raises
    ------
    InputError
    """
    return _subset("select", options, values, progress)


def _subset(verb: str, options: Any, values: Mapping[str, Any], progress: bool) -> ParticleSubset:
    output, worked, found, _ = _run(verb, options, values, None, progress)
    return ParticleSubset(output, worked, found["star"], {
        name: value for name, value in found.items() if isinstance(value, int)})


def _values(verb: str, options: Any, values: Mapping[str, Any]) -> Dict[str, Any]:
    """Options by name: those of a record that are not its defaults, and those that are given beside it."""
    kind = _options.VERBS.get(verb)
    if options is not None and not (kind and isinstance(options, kind)):
        raise InputError("options of %s" % verb, "they are %s" % type(options).__name__, "Give %s" % (
            kind.__name__ if kind else "one of " + ", ".join(sorted(_options.VERBS))))
    out = {} if options is None else {spec.name: getattr(options, spec.name) for spec in fields(options)
                                      if getattr(options, spec.name) != spec.default}
    return dict(out, **values)


def _run(verb: str, options: Any, values: Mapping[str, Any], only: Optional[Sequence[str]],
         progress: bool) -> Tuple[str, Dict[str, Worked], Dict[str, Any], List[Dict[str, Any]]]:
    """Output folder, what became of each tilt series, what was collected, and the results as they were recorded."""
    job: Dict[str, Union[str, bool, List[str], Dict[str, Any]]] = {
        "verb": verb, "options": _values(verb, options, values), "collect": True}
    if only is not None:
        job["series"] = list(only)
    with _shown(progress):
        done = _runner.run(job)
    results: List[Dict[str, Any]] = done["results"]
    worked = {r["ts_id"]: Worked(r["ts_id"], r["status"], r.get("error", ""), tuple(r.get("notes", ())),
                                 tuple(r.get("files", ()))) for r in results}
    return str(_values(verb, options, values)["output"]), worked, done.get("collected", {}), results
