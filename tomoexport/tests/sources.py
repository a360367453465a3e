"""One simulated project as every program describes it, for tests of what comes in."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tomoexport.engine.geometry import projection_matrices, to_imod_transform
from tomoexport.io import mrc, particlestar, relion5, star
from tomoexport.tests.io import warpfiles

_TOMO = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXTilt", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
_SIZE = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")


@dataclass
class Described:
    """Files that describe tilt series and particles.

    Attributes
    ----------
    tomograms, particles : str
    truth : dict of str to object
        By flag: the value that an option would have if it were asked for.
    """

    tomograms: str
    particles: str
    truth: dict = field(default_factory=dict)


def columns_of(table):
    """A table as a dict of label to list of str."""
    return {name: table.text(name) for name in table.columns}


def rewrite(path, change, block=None):
    """Let ``change`` alter the columns, a dict of label to list of str, of a block, by default of the only one."""
    tables = list(star.read(str(path)))
    chosen = tables[0] if block is None else next(table for table in tables if table.name == block)
    columns = columns_of(chosen)
    change(columns)
    star.write(str(path), [star.Table.from_columns(t.name, columns) if t is chosen else t for t in tables])


def relion5_tables(data, folder):
    """RELION 5's tables with angles and shifts."""
    shutil.copytree(str(data), str(folder))
    return Described(str(folder / "tomograms.star"), str(folder / "particles.star"))


def relion5_matrices(data, folder):
    """RELION 5's tables with projection matrices alone."""
    out = relion5_tables(data, folder)
    for one in relion5.read_project(out.tomograms):
        rewrite(folder / "tilt_series" / (one.ts_id + ".star"), lambda columns, one=one: _to_matrices(columns, one))
    return out


def _to_matrices(columns, one):
    for name in _TOMO:
        columns.pop(name, None)
    matrices = projection_matrices(one.geometry)
    for i, letter in enumerate("XYZW"):
        columns["rlnTomoProj" + letter] = ["[%s]" % ",".join(map(repr, row)) for row in matrices[:, i].tolist()]


def relion5_aligned(data, folder):
    """RELION 5's aligned_tilt_series.star, which comes before tomograms have a size."""
    out = relion5_tables(data, folder)
    size = relion5.read_project(out.tomograms)[0].geometry.size_px
    rewrite(out.tomograms, lambda columns: [columns.pop(name) for name in _SIZE])
    # Their sizes differ, and one option is for all: the series of the other size is a wrong one then, and no error.
    return replace(out, truth={"--tomogram-size": "x".join(map(str, size))})


def relion4_tables(data, folder):
    """RELION 4's one file of everything, with particles in pixels of the tilt series from the corner."""
    out = relion5_tables(data, folder)
    series = relion5.read_project(out.tomograms)
    table, blocks = next(iter(star.read(out.tomograms))), []
    columns = columns_of(table)
    columns.pop("rlnTomoTiltSeriesStarFile")
    columns["rlnTomoTiltSeriesName"] = ["tiltseries/%s.mrcs:mrc" % one.ts_id for one in series]
    for one in series:
        own = columns_of(next(iter(star.read(str(folder / "tilt_series" / (one.ts_id + ".star"))))))
        _to_matrices(own, one)
        own.pop("rlnMicrographName")
        blocks.append(star.Table.from_columns(one.ts_id, own))
    star.write(out.tomograms, [star.Table.from_columns("global", columns)] + blocks)
    rewrite(out.particles, lambda columns: _to_corner(columns, series, [one.geometry.pixel_size for one in series]))
    return out


def _to_corner(columns, series, units):
    by_name = {one.ts_id: (one.geometry, unit) for one, unit in zip(series, units)}
    for i, axis in enumerate("XYZ"):
        centred = columns.pop("rlnCenteredCoordinate%sAngst" % axis)
        columns["rlnCoordinate" + axis] = [
            repr(float((float(value) + by_name[name][0].centre[i]) / by_name[name][1]))
            for name, value in zip(columns["rlnTomoName"], centred)]
    for name in ("rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize"):
        columns.pop(name, None)


def warptools_tables(data, folder):
    """RELION 5's tables with WarpTools' particle table."""
    out = relion5_tables(data, folder)
    series = relion5.read_project(out.tomograms)
    pixel = series[0].geometry.pixel_size

    def change(columns):
        _to_corner(columns, series, [pixel] * len(series))
        columns["rlnTomoName"] = [name + ".tomostar" for name in columns["rlnTomoName"]]
        columns["rlnImagePixelSize"] = [repr(pixel)] * len(columns["rlnTomoName"])

    rewrite(out.particles, change)
    return out


def warp_xml(data, folder):
    """A folder of XML of Warp and WarpTools."""
    for one in relion5.read_project(str(data / "tomograms.star")):
        warpfiles.write_series(folder, one)
    shutil.copy(str(data / "particles.star"), str(folder))
    return Described(str(folder), str(folder / "particles.star"))


def warp_xml_early(data, folder):
    """The XML of Warp 1.0.9, which does not say how large the tomogram is."""
    out = warp_xml(data, folder)
    for path in folder.glob("*.xml"):
        path.write_text(path.read_text().replace("VolumeDimensionsAngstrom", "Forgotten"))
    return replace(out, truth={"--tomogram-size": "64x64x30"})


def imod_folder(data, folder, com="THICKNESS 30\n"):
    """IMOD's folder of one tilt series; the particles of the other series are there all the same."""
    one = relion5.read_project(str(data / "tomograms.star"))[0]
    g = one.geometry
    folder.mkdir(parents=True)
    stem = str(folder / one.ts_id)
    images = np.stack([mrc.read_volume(path)[0][section] for path, section in one.images])
    mrc.write(stem + ".st", images, g.pixel_size, kind="stack")
    np.savetxt(stem + ".xf", [[*m[:2, :2].ravel(), *m[:2, 2]] for m in to_imod_transform(g)], fmt="%.9f")
    np.savetxt(stem + ".tlt", g.tilt, fmt="%.6f")
    if com is not None:
        (folder / "tilt.com").write_text("$tilt -StandardInput\n%sFULLIMAGE %d %d\n" % ((com,) + g.image_shape[::-1]))
    if np.any(g.xtilt):
        np.savetxt(stem + ".xtilt", g.xtilt, fmt="%.6f")
    shutil.copy(str(data / "particles.star"), str(folder))
    return Described(stem + ".xf", str(folder / "particles.star"), {
        "--tomogram-size": "x".join(map(str, g.size_px)), "--allow-loss": True, "--no-ctf": True, "--ctf": "none",
        "--voltage": 300.0, "--cs": 2.7, "--amplitude-contrast": 0.07})


def imod_folder_without_com(data, folder):
    """The same without tilt.com."""
    return imod_folder(data, folder, None)


#: By name: ``make(data, folder)`` describes the project ``data`` in a new folder.
SOURCES = {make.__name__: make for make in (
    relion5_tables, relion5_matrices, relion5_aligned, relion4_tables, warptools_tables, warp_xml, warp_xml_early,
    imod_folder, imod_folder_without_com)}


def described(name, data, folder):
    """Describe a project as one of `SOURCES`; the truth holds what is the same for all."""
    out = SOURCES[name](Path(str(data)), Path(str(folder)))
    g = relion5.read_project(os.path.join(str(data), "tomograms.star"))[0].geometry
    plain = {"--hand": g.hand, "--image-pixel-size": g.pixel_size,
             "--exposure-dose": float(np.diff(np.sort(g.dose))[0])}
    return replace(out, truth=dict(plain, **out.truth))


def positions(path, series):
    """Positions of a table's particles, angstrom about the tomogram's centre."""
    return particlestar.read_particles(path, series)[0].position
