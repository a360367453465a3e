"""Everything that an input says beyond the usual, with every verb: it changes what is written, or it is told."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.io.statements import ABERRATIONS, TILT_SERIES
from tomoexport.io.warpxml import _GRIDS, _PARAMETERS
from tomoexport.jobs import runner
from tomoexport.tests.io.warpfiles import grid
from tomoexport.tests.sources import columns_of, described, imod_folder, rewrite, warp_xml

pytestmark = pytest.mark.slow

VERBS = ("reconstruct", "subtomo", "series", "pseudosubtomo", "particle")
OPTIONS = {
    "reconstruct": dict(pixel_size=8.0), "subtomo": dict(pixel_size=8.0, box=16, diameter=80.0),
    "series": dict(pixel_size=8.0, box=16, diameter=80.0), "pseudosubtomo": dict(box=16, stack2d=False),
    "particle": dict(box=16)}
#: For a source without CTF.
WITHOUT = {"reconstruct": {"ctf": "none"}, "pseudosubtomo": {"ctf": False, "only_project": True},
           "particle": {"ctf": False}}


def job(verb, source, out, **more):
    """The options of a verb on a source."""
    values = dict(OPTIONS[verb], tomograms=source.tomograms, output=str(out), device="cpu", threads=1, **more)
    return values if verb == "reconstruct" else dict(values, particles=source.particles, allow_loss=True)


def told(verb, values):
    """All that the plan says, be it an error."""
    try:
        return "\n".join(runner.plan(verb, runner.read_options(verb, values)).lines())
    except InputError as error:
        return str(error)


def made(verb, values):
    """Every volume and place that a run writes, by name."""
    runner.run({"verb": verb, "options": values})
    out, found = Path(values["output"]), {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix in (".mrc", ".mrcs"):
            found[name] = mrc.read_volume(str(path))[0]
        elif path.suffix == ".npz":
            with np.load(str(path)) as content:
                found.update(("%s:%s" % (name, key), content[key]) for key in content.files)
        elif path.name.endswith(".csv") and path.parent.name == "projected":
            found[name] = np.array([line.split(",")[1:] for line in path.read_text().splitlines()[1:]], float)
        elif path.suffix == ".star" and verb == "series":  # what the programs that read it are told
            table = list(star.read(str(path)))[-1]
            found.update((name + ":" + label, np.array(table.text(label))) for label in table.columns
                         if not label.endswith("Name"))
    return found


def unlike(one, other):
    """Whether two runs wrote different things."""
    return set(one) != set(other) or any(
        one[name].shape != other[name].shape or (
            (one[name] != other[name]).any() if one[name].dtype.kind == "U" else
            np.abs(one[name] - other[name]).max(initial=0) > 1e-6 * np.abs(one[name]).max(initial=0)) for name in one)


def followed_or_told(verb, plain, stated, label, tmp_path, **more):
    """See that a statement is told under its name, or changes what is written."""
    words = told(verb, job(verb, stated, tmp_path / "told", **more))
    if re.search(r"\b%s\b" % re.escape(label), words):
        assert label not in told(verb, job(verb, plain, tmp_path / "plain", **more))
        return "told"
    assert unlike(made(verb, job(verb, plain, tmp_path / "plain", **more)),
                  made(verb, job(verb, stated, tmp_path / "stated", **more))), words
    return "followed"


# ------------------------------------------------------------------------------------------------------------ RELION

DEFORMATION = {"rlnTomoDeformationType": "linear", "rlnTomoDeformationGridSizeX": "2",
               "rlnTomoDeformationGridSizeY": "2", "rlnTomoDeformationCoefficients": "[0.01,0,0]"}
MATRIX = {"rlnMagMat00": "1.02", "rlnMagMat01": "0.01", "rlnMagMat10": "0.01", "rlnMagMat11": "0.98"}
OF_TOMOGRAM = dict(
    {label: MATRIX.get(label, "[0.1,0.2,0.3]" if "Zernike" in label else "0.5") for label in ABERRATIONS},
    **{label: value for label, value in DEFORMATION.items() if label in TILT_SERIES},
    rlnTomoDefocusSlope="30.0", rlnCtfBfactorPerElectronDose="40.0")
OF_TILT = {"rlnCtfBfactor": "300.0", "rlnCtfScalefactor": "0.5", "rlnPhaseShift": "50.0", "tomoexportUsed": "0",
           "rlnTomoDeformationCoefficients": "[0.01,0,0]"}
#: What makes no difference to whole tomograms.
NOTHING_FOR_TOMOGRAMS = {}


def with_column(path, label, values, block=None):
    """Write a column into a table; a single value is that of its first row."""
    def change(columns):
        n = len(next(iter(columns.values())))
        columns[label] = values if isinstance(values, list) else [values] * n
    rewrite(path, change, block)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("label", OF_TOMOGRAM)
def test_a_column_of_the_table_of_tomograms(simulated, tmp_path, verb, label):
    plain, stated = (described("relion5_tables", simulated("tiny"), tmp_path / name) for name in ("a", "b"))
    with_column(stated.tomograms, label, OF_TOMOGRAM[label])
    followed_or_told(verb, plain, stated, label, tmp_path)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("label", OF_TILT)
def test_a_column_of_the_table_of_tilts(simulated, tmp_path, verb, label):
    plain, stated = (described("relion5_tables", simulated("tiny"), tmp_path / name) for name in ("a", "b"))
    first = {"rlnCtfScalefactor": "1.0", "tomoexportUsed": "1"}.get(label, OF_TILT[label])
    with_column(Path(stated.tomograms).parent / "tilt_series" / "TS_01.star", label, [first, OF_TILT[label], first])
    how = followed_or_told(verb, plain, stated, label, tmp_path)
    assert how == "followed" or label.startswith("rlnTomoDeformation") or "CtfB" in label or (
        label == "rlnCtfScalefactor" and verb in ("pseudosubtomo", "particle", "reconstruct", "series")), (
        "only what cannot be followed may be told")


@pytest.mark.parametrize("verb", VERBS[1:])
@pytest.mark.parametrize("label", ABERRATIONS)
def test_a_column_of_optics_groups(simulated, tmp_path, verb, label):
    plain, stated = (described("relion5_tables", simulated("tiny"), tmp_path / name) for name in ("a", "b"))
    for one in (plain, stated):
        table, = star.read(one.particles)
        columns = dict(columns_of(table), rlnOpticsGroup=["1"] * len(table))
        optics = {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["first"]}
        if one is stated:
            optics[label] = [OF_TOMOGRAM[label]]
        star.write(one.particles, [star.Table.from_columns("optics", optics),
                                   star.Table.from_columns("particles", columns)])
    if verb == "pseudosubtomo" and label not in ("rlnOddZernike", "rlnEvenZernike"):
        # They are of the refinement, which finds them in what is written.
        out = tmp_path / "kept"
        runner.run({"verb": verb, "options": job(verb, stated, out)})
        table = star.read(str(out / "particles.star")).table("optics")
        assert table.text(label) == [OF_TOMOGRAM[label]] and table.text("rlnOpticsGroupName") == ["first"]
    else:
        followed_or_told(verb, plain, stated, label, tmp_path)


# -------------------------------------------------------------------------------------------------------------- Warp

GRIDS = {
    "GridMovementX": 40.0, "GridMovementY": 40.0, "GridAngleX": 9.0, "GridAngleY": 9.0, "GridAngleZ": 9.0,
    "GridVolumeWarpX": np.full((1, 1, 1, 1), 60.0), "GridDoseBfacs": np.reshape([-40.0, -50, -60], (3, 1, 1)),
    "GridDoseBfacsDelta": np.reshape([4.0, 5, 6], (3, 1, 1)), "GridDoseWeights": np.reshape([.9, .5, .4], (3, 1, 1)),
    "GridLocationBfacs": 30.0, "GridLocationWeights": 0.5, "GridCTF": np.arange(12.).reshape((3, 2, 2)) + 3,
    "GridCTFDefocusDelta": np.arange(12.).reshape((3, 2, 2)), "GridCTFPhase": np.arange(12.).reshape((3, 2, 2)) / 50,
    "GridCTFDefocusAngle": np.arange(12.).reshape((3, 2, 2)) * 9}
ATTRIBUTES = {"Bfactor": "-20", "Weight": "0.7", "UnselectManual": "True", "UnselectFilter": "True",
              "LevelAngleX": "8.0", "LevelAngleY": "8.0"}
PARAMETERS = {"BeamTilt": "0.4,0.2", "PixelSizeDeltaPercent": "0.01", "ZernikeCoeffsOdd": "0;0;0.4",
              "ZernikeCoeffsEven": "0;0.3;0.2", "PhaseShift": "0.5"}


def test_the_lists_are_complete():
    assert set(_GRIDS) <= set(GRIDS) and set(_PARAMETERS) <= set(PARAMETERS)
    assert set(TILT_SERIES) <= set(OF_TOMOGRAM)


def edited(folder, change):
    """Let ``change`` alter the text of the XML of TS_01."""
    path = folder / "TS_01.xml"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_of_warp(simulated, tmp_path, verb, name):
    plain, stated = (warp_xml(simulated("tiny"), tmp_path / folder) for folder in "ab")
    # GridCTF and its like stand there already: they are replaced.
    element = grid(name, GRIDS[name])
    for folder in "ab":
        edited(tmp_path / folder, lambda text: re.sub(r"<%s .*?</%s>" % (name, name), "", text))
    edited(tmp_path / "b", lambda text: text.replace("</TiltSeries>", element + "</TiltSeries>"))
    if name.startswith("GridCTF"):  # beside one value per tilt, as before, in the middle of the image
        values = np.asarray(GRIDS[name]).mean(axis=(1, 2), keepdims=True)
        edited(tmp_path / "a", lambda text: text.replace("</TiltSeries>", grid(name, values) + "</TiltSeries>"))
    if verb == "reconstruct" and name.startswith(("GridMovement", "GridAngle", "GridVolumeWarp")):
        return  # tomograms follow the global part alone, as the option says
    followed_or_told(verb, plain, stated, name, tmp_path)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_warp(simulated, tmp_path, verb, name):
    plain, stated = (warp_xml(simulated("tiny"), tmp_path / folder) for folder in "ab")
    for folder in "ab":
        edited(tmp_path / folder, lambda text: re.sub(r' %s="[^"]*"' % name, "", text))
    edited(tmp_path / "b", lambda text: text.replace("<TiltSeries", '<TiltSeries %s="%s"' % (name, ATTRIBUTES[name])))
    how = followed_or_told(verb, plain, stated, name, tmp_path)
    assert how == ("followed" if name.startswith("Level") else "told")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_of_warps_ctf(simulated, tmp_path, verb, name):
    plain, stated = (warp_xml(simulated("tiny"), tmp_path / folder) for folder in "ab")
    for folder in "ab":
        edited(tmp_path / folder, lambda text: re.sub(r"<GridCTFPhase .*?</GridCTFPhase>", "", text))
    edited(tmp_path / "b", lambda text: text.replace("<CTF>", '<CTF><Param Name="%s" Value="%s" />' % (
        name, PARAMETERS[name])))
    followed_or_told(verb, plain, stated, name, tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_a_tilt_that_warp_was_told_to_leave_out(simulated, tmp_path, verb):
    plain, stated = (warp_xml(simulated("tiny"), tmp_path / folder) for folder in "ab")
    edited(tmp_path / "b", lambda text: text.replace("<UseTilt>True", "<UseTilt>False"))
    assert followed_or_told(verb, plain, stated, "UseTilt", tmp_path) == "followed"


# -------------------------------------------------------------------------------------------------------------- IMOD

#: Entries of tilt.com, and whether they are followed by every verb.
ENTRIES = {"OFFSET": ("OFFSET 3 0", True), "OFFSET ": ("OFFSET 0 12", True), "SHIFT": ("SHIFT 5 4", True),
           "XAXISTILT": ("XAXISTILT 7", True), "EXCLUDELIST": ("EXCLUDELIST 2", True),
           "EXCLUDELIST2": ("EXCLUDELIST2 2", True), "INCLUDE": ("INCLUDE 1,3", True),
           "TILTFILE": ("TILTFILE TS_01_fid.tlt", True), "XTILTFILE": ("XTILTFILE TS_01_other.xtilt", True),
           "LOCALFILE": ("LOCALFILE TS_01local.xf", False), "ZFACTORFILE": ("ZFACTORFILE TS_01.zfac", False),
           "SLICE": ("SLICE 3 20", False), "SUBSETSTART": ("SUBSETSTART 4 6", False),
           "FULLIMAGE": ("FULLIMAGE 128 128", False), "THICKNESS": ("THICKNESS 20", True)}


@pytest.mark.parametrize("verb", ("reconstruct", "pseudosubtomo", "particle"))
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_of_tilt_com(simulated, tmp_path, verb, name):
    entry, whole = ENTRIES[name]
    plain, stated = (imod_folder(simulated("tiny"), tmp_path / folder) for folder in "ab")
    angles = np.loadtxt(str(tmp_path / "b" / "TS_01.tlt"))
    for path, values in (("TS_01_fid.tlt", angles + 4), ("TS_01_other.xtilt", np.full(len(angles), 6.0))):
        np.savetxt(str(tmp_path / "b" / path), values, fmt="%.3f")
    com = tmp_path / "b" / "tilt.com"
    lines = [line for line in com.read_text().splitlines() if not line.startswith(name.strip() + " ")]
    com.write_text("\n".join(lines + [entry]) + "\n")
    if verb == "particle" and name == "THICKNESS":
        return  # where particles lie is told from the centre of the tomogram
    if verb == "pseudosubtomo" and name == "THICKNESS":
        return
    more = dict(WITHOUT[verb], voltage=300.0, cs=2.7, amplitude_contrast=0.07)
    how = followed_or_told(verb, plain, stated, name.strip(), tmp_path, **more)
    assert how == ("followed" if whole and not name.endswith("FILE") else "told") or name.endswith("TFILE"), how


@pytest.mark.parametrize("verb", ("reconstruct", "pseudosubtomo"))
def test_aretomos_global_transforms_are_no_local_ones(simulated, tmp_path, verb):
    """AreTomo names its global .xf under LOCALFILE."""
    source = imod_folder(simulated("tiny"), tmp_path / "a", "THICKNESS 30\nLOCALFILE TS_01.xf\n")
    assert "LOCALFILE" not in told(verb, job(verb, source, tmp_path / "out", **WITHOUT[verb], voltage=300.0, cs=2.7,
                                             amplitude_contrast=0.07))


@pytest.mark.parametrize("verb", VERBS[1:])
def test_what_is_local_stops_particles_until_it_is_ignored(simulated, tmp_path, verb):
    source = described("relion5_tables", simulated("tiny"), tmp_path / "a")
    with_column(source.tomograms, "rlnTomoDeformationType", "linear")
    words = told(verb, job(verb, source, tmp_path / "out"))
    assert re.search(r"cannot be used.*rlnTomoDeformationType is not followed by %s.*--ignore" % verb, words)
    words = told(verb, job(verb, source, tmp_path / "out", ignore="rlnTomoDeformation"))
    assert "cannot be used" not in words and "warning: TS_01: rlnTomoDeformationType is not followed" in words
    assert os.path.exists(source.tomograms)
