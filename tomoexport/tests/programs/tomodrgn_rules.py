"""What tomoDRGN 1.0.1 takes, rule by rule, written from a description of its reader and not from our writer.

tomoDRGN is in no package registry, so the suite cannot run it. This module reads a table the way that program does
and tells which of its rules are broken. It shares no code with the product.
"""

import math
import os
import struct
from dataclasses import dataclass, field

#: Columns by which the kinds of image series are told apart: the same ones in the same order, none more or less.
WARP = ("Magnification DetectorPixelSize Voltage SphericalAberration AmplitudeContrast PhaseShift DefocusU DefocusV "
        "DefocusAngle ImageName MicrographName CoordinateX CoordinateY AngleRot AngleTilt AnglePsi CtfBfactor "
        "CtfScalefactor RandomSubset GroupName").split()
CRYOSRPNT = ("ImageName DetectorPixelSize DefocusU DefocusV DefocusAngle Voltage SphericalAberration "
             "AmplitudeContrast PhaseShift AngleRot AngleTilt AnglePsi OriginX OriginY CtfBfactor CtfScalefactor "
             "GroupName").split()
#: The same for the particles of optimisation sets of WarpTools.
GENERAL = ["TomoSubTomosAre2DStacks"]
OPTICS = ("OpticsGroup OpticsGroupName SphericalAberration Voltage TomoTiltSeriesPixelSize CtfDataAreCtfPremultiplied "
          "ImageDimensionality TomoSubtomogramBinning ImagePixelSize ImageSize AmplitudeContrast").split()
PARTICLES = ("TomoName TomoParticleId CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi "
             "TomoParticleName OpticsGroup ImageName OriginXAngst OriginYAngst OriginZAngst TomoVisibleFrames").split()
TILTS = "TomoProjX TomoProjY TomoProjZ TomoProjW DefocusU DefocusV DefocusAngle CtfScalefactor MicrographPreExposure"
#: What training and back-projection use of an image series, whatever else is there.
USED = ("ImageName DetectorPixelSize DefocusU DefocusV DefocusAngle Voltage SphericalAberration AmplitudeContrast "
        "PhaseShift AngleRot AngleTilt AnglePsi CtfBfactor CtfScalefactor GroupName").split()
#: Boxes for which the back-projection fails before it writes a map.
CRASHING = {46, 48, 54, 106, 108, 114, 134, 176, 178, 184, 192, 206, 212, 216, 226, 228, 232, 274, 288, 294, 304, 338,
            342, 354, 362, 366, 378, 394, 418, 432, 438, 440, 444, 446, 452, 456, 466, 472, 478, 486, 498, 506}


@dataclass
class Reading:
    """What was understood of a table, and the rules that it breaks.

    Attributes
    ----------
    kind : str
        'warp', 'cryosrpnt', 'warptools', or empty.
    broken : list of (str, str)
        Name of a rule, and what breaks it. The names 'train_vae: ...' and 'backproject_voxel: ...' concern that
        command alone; all others stop the reader or make it read something else than what was meant.
    particles : dict of str to list of int
        Rows of each particle, in the order in which they come first.
    dose, tilt : list of float
        Of every image: e/A^2, degrees.
    """

    kind: str = ""
    broken: list = field(default_factory=list)
    particles: dict = field(default_factory=dict)
    dose: list = field(default_factory=list)
    tilt: list = field(default_factory=list)

    def breaks(self, rule, text):
        self.broken.append((rule, text))

    @property
    def rules(self):
        """Names of the broken rules."""
        return {rule for rule, _ in self.broken}


def check(path, source="auto", datadir=None, cwd=None, lazy=False, uninvert=False, images=True):
    """Read a table as tomoDRGN would.

    Parameters
    ----------
    path : str
    source : {'auto', 'warp', 'warptools'}
        ``--source-software``.
    datadir : str, optional
        ``--datadir``.
    cwd : str, optional
        Working folder of the program; that of the table by default.
    lazy : bool
        Whether ``--lazy`` or ``--norm`` is given.
    uninvert : bool
        Whether ``--uninvert-data`` is given.
    images : bool
        Whether the image files are there to be looked at.

    Returns
    -------
    Reading
    """
    out = Reading()
    blocks = _blocks(path, out)
    names = {name: [label for label in block["labels"]] for name, block in blocks.items()}
    plain = blocks.get("data_")
    if plain and not plain["loop"] and {"TomoParticlesFile", "TomoTomogramsFile"} <= set(plain["labels"]):
        return _optimisation_set(path, plain, out, source, images)
    if source == "auto":
        known = {"warp": {"data_": WARP}, "cryosrpnt": {"data_": CRYOSRPNT}}
        out.kind = next((kind for kind, columns in known.items() if columns == names), "")
        if not out.kind:
            out.breaks("format", "the columns are those of no known program: %s" % names)
            return out
    else:
        out.kind = source
    if not plain or not plain["rows"]:
        out.breaks("format", "there is no block data_ with rows")
        return out
    _image_series(path, plain, out, datadir, cwd or os.path.dirname(os.path.abspath(path)), lazy, images)
    return out


def _blocks(path, out):
    """The blocks of a file: labels without ``_rln``, rows of texts, and whether it is a loop."""
    with open(path, newline="") as file:
        lines = file.read().replace("\r\n", "\n").split("\n")
    blocks, block, ended = {}, None, False
    for number, line in enumerate(lines, 1):
        where = "line %d" % number
        bare = line.strip()
        if bare.startswith(("data_", "loop_", "_")) and line[:1] in " \t" and (
                bare.startswith(("data_", "loop_")) or block is not None and not block["rows"]):
            out.breaks("column 0", "%s: %s begins with a blank" % (where, bare.split()[0]))
            line = bare
        if line.startswith("data_"):
            block, ended = {"labels": [], "rows": [], "loop": False}, False
            blocks[bare] = block
        elif block is None:
            continue
        elif line.startswith("loop_"):
            block["loop"] = True
        elif line.startswith("_") and not block["rows"] or (line.startswith("_") and not block["loop"]):
            label = line.split(" ")[0]
            if "\t" in label:
                out.breaks("separator", "%s: a tab follows the label" % where)
            block["labels"].append(label.split("\t")[0][len("_rln"):])
            if not block["loop"]:
                values = line.split()
                block["rows"] = [(block["rows"] or [[]])[0] + values[1:2]]
        elif not bare:
            ended = bool(block["rows"]) and block["loop"]
        elif bare.startswith("#"):
            if block["labels"]:
                out.breaks("comment", "%s: a comment in a table" % where)
        elif ended:
            out.breaks("blank line", "%s: the table ended with the blank line before it" % where)
            ended = False
        else:
            values = bare.split()
            if any(value[0] in "\"'" for value in values):
                out.breaks("quotes", "%s: quotes are not understood" % where)
            if len(values) != len(block["labels"]):
                out.breaks("row length", "%s: %d values for %d columns" % (where, len(values), len(block["labels"])))
                continue
            block["rows"].append(values)
    return blocks


def _kind(text):
    for kind in (int, float):
        try:
            if "_" in text:
                break
            kind(text)
            return kind
        except ValueError:
            pass
    return str


def _columns(block, out):
    """Columns with the types that their first rows have."""
    columns = {}
    for index, label in enumerate(block["labels"]):
        texts = [row[index] for row in block["rows"]]
        kind = _kind(texts[0])
        try:
            columns[label] = [kind(text) for text in texts]
        except ValueError:
            bad = next(text for text in texts if not (kind is float and _kind(text) is not str or _kind(text) is kind))
            out.breaks("dtype", "rln%s begins with %s and goes on with %s" % (label, texts[0], bad))
            columns[label] = texts
    return columns


def _numbers(columns, label, out):
    values = columns.get(label)
    if values is None:
        out.breaks("column missing", "there is no rln%s" % label)
        return []
    if any(isinstance(value, str) for value in values):
        out.breaks("dtype", "rln%s is no number" % label)
        return []
    return values


def _image_series(path, block, out, datadir, cwd, lazy, images):
    columns = _columns(block, out)
    for label in USED:
        if label in ("ImageName", "GroupName"):
            if label not in columns:
                out.breaks("column missing", "there is no rln%s" % label)
                return
        elif not all(map(math.isfinite, _numbers(columns, label, out))):
            out.breaks("finite", "rln%s has values that are not finite" % label)
    for row, name in enumerate(columns["GroupName"]):
        out.particles.setdefault(name, []).append(row)
    if not isinstance(columns["GroupName"][0], str):
        out.breaks("group name", "rlnGroupName is numeric: %s" % columns["GroupName"][0])
    sizes = set(columns.get("DetectorPixelSize", ()))
    if len(sizes) > 1:
        out.breaks("pixel size", "there are several: %s" % sorted(sizes))
    _dose_and_tilt([b / -4 for b in _numbers(columns, "CtfBfactor", out)],
                   _numbers(columns, "CtfScalefactor", out), out)
    stacks = _names(columns["ImageName"], out)
    if len(columns["ImageName"]) < 100 and not lazy:
        out.breaks("train_vae: images", "%d images are too few to estimate a deviation from" % len(
            columns["ImageName"]))
    if images:
        found = _resolve(list(stacks), path, datadir, cwd, out)
        _stacks(found, {found[name]: top for name, top in stacks.items() if name in found}, out)


def _dose_and_tilt(dose, scale, out):
    if any(not d >= 0 for d in dose):
        out.breaks("dose", "it is negative: %g" % min(dose))
    out.dose = dose
    for value in scale:
        if not abs(value) <= 1:
            out.breaks("scale", "rlnCtfScalefactor %r has no arc cosine" % value)
            return
    out.tilt = [math.degrees(math.acos(value)) for value in scale]


def _names(names, out):
    """The highest image number of every stack."""
    stacks = {}
    for name in names:
        number, at, path = name.partition("@")
        if not at or not number.isdigit() or int(number) < 1:
            out.breaks("image name", "%s is no number@path that counts from 1" % name)
            continue
        stacks[path] = max(stacks.get(path, 0), int(number))
    return stacks


def _resolve(names, table, datadir, cwd, out):
    """Where the stacks are: one way of putting folder and name together must find all of them."""
    base = datadir or os.path.dirname(os.path.abspath(table))
    last = lambda name: os.path.join(os.path.basename(os.path.dirname(name)), os.path.basename(name))  # noqa: E731
    for way in (lambda name: os.path.join(cwd, name), lambda name: os.path.join(base, os.path.basename(name)),
                lambda name: os.path.join(base, name), lambda name: os.path.join(base, last(name))):
        found = {name: way(name) for name in names}
        if all(map(os.path.exists, found.values())):
            # The size of the images is asked for before: with --datadir, or of the name as the working folder has it.
            if not datadir and not os.path.exists(os.path.join(cwd, names[0])):
                out.breaks("working folder", "%s is not below it; --datadir would help" % names[0])
            return found
    out.breaks("paths", "no single rule finds all of the %d stacks" % len(names))
    return {}


def _stacks(found, tops, out):
    sizes, modes, extended = set(), set(), set()
    for path in found.values():
        with open(path, "rb") as file:
            header = file.read(1024)
        nx, ny, nz, mode = struct.unpack("<4i", header[:16])
        nsymbt = struct.unpack("<i", header[92:96])[0]
        if not 0 < nx < 100000:
            out.breaks("byte order", "%s is not little-endian" % path)
            continue
        if nx != ny:
            out.breaks("square", "%s has %d x %d pixels" % (path, nx, ny))
        if nx % 2:
            out.breaks("even box", "%s has %d pixels" % (path, nx))
        if mode not in (2, 12):
            out.breaks("mode", "%s has mode %d" % (path, mode))
        if tops.get(path, 1) > nz:
            out.breaks("image number", "image %d of %s, which has %d" % (tops[path], path, nz))
        if os.path.getsize(path) < 1024 + nsymbt + nx * ny * nz * (2 if mode == 12 else 4):
            out.breaks("truncated", path)
        sizes.add(nx)
        modes.add(mode)
        extended.add(nsymbt)
    if len(sizes) > 1:
        out.breaks("one size", "stacks of %s pixels" % sorted(sizes))
    if len(modes) > 1:
        out.breaks("one mode", "stacks of modes %s" % sorted(modes))
    if len(extended) > 1:
        out.breaks("extended header", "extended headers of %s bytes; --lazy takes the first for all" % sorted(extended))
    for size in sizes & CRASHING:
        out.breaks("backproject_voxel: box", "%d pixels" % size)


def _optimisation_set(path, plain, out, source, images):
    out.kind = "warptools"
    if "_optimisation_set" not in os.path.basename(path):
        out.breaks("set name", "%s does not contain _optimisation_set" % os.path.basename(path))
    values = dict(zip(plain["labels"], plain["rows"][0]))
    folder = os.path.dirname(os.path.abspath(path))
    files = [os.path.join(folder, values["Tomo%sFile" % name]) for name in ("Particles", "Tomograms")]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        out.breaks("paths", "%s is not there, counted from the set" % missing[0])
        return out
    particles, tomograms = (_blocks(file, out) for file in files)
    labels = {name: block["labels"] for name, block in particles.items()}
    if labels != {"data_general": GENERAL, "data_optics": OPTICS, "data_particles": PARTICLES} and source == "auto":
        out.breaks("format", "the columns are those of no known program: %s" % labels)
        return out
    if particles["data_general"]["loop"] or particles["data_general"]["rows"] != [["1"]]:
        out.breaks("2D stacks", "data_general is no plain block with rlnTomoSubTomosAre2DStacks 1")
    optics = _columns(particles["data_optics"], out)
    rows = _columns(particles["data_particles"], out)
    order = list(dict.fromkeys(rows["TomoName"]))
    if rows["TomoName"] != sorted(rows["TomoName"], key=order.index):
        out.breaks("grouped", "the particles of a tomogram are not together")
    for name in order:
        if not isinstance(name, str):
            out.breaks("tomogram name", "%s is numeric" % name)
            return out
    whole = _columns(tomograms["data_global"], out)
    pixel = {name: size for name, size in zip(whole["TomoName"], whole["TomoTiltSeriesPixelSize"])}
    tilts, dose, scale = {}, {}, {}
    for name in order:
        block = tomograms.get("data_" + str(name))
        if block is None or not set(TILTS.split()) <= set(block["labels"]):
            out.breaks("tilt table", "%s has no table, or not all of %s" % (name, TILTS))
            return out
        columns = _columns(block, out)
        tilts[name] = len(block["rows"])
        for label in ("TomoProjX", "TomoProjY", "TomoProjZ", "TomoProjW"):
            for text in columns[label]:
                try:
                    four = [float(value) for value in text.strip("[]").split(",")]
                except (ValueError, AttributeError):
                    four = []
                if len(four) != 4 or text[0] + text[-1] != "[]":
                    out.breaks("matrix", "rln%s is %s" % (label, text))
                    return out
        dose[name], scale[name] = columns["MicrographPreExposure"], columns["CtfScalefactor"]
    _dose_and_tilt([d for n in rows["TomoName"] for d in dose[n]], [s for n in rows["TomoName"] for s in scale[n]], out)
    stacks = {}
    for row, name in enumerate(rows["TomoName"]):
        image, frames = str(rows["ImageName"][row]), str(rows["TomoVisibleFrames"][row]).strip("[]").split(",")
        out.particles[rows["TomoParticleName"][row]] = [row]
        if "@" in image:
            out.breaks("image name", "%s is no bare path" % image)
        if len(frames) != tilts[name] or set(frames) != {"1"}:
            out.breaks("visible frames", "%d of the %d tilts of %s" % (frames.count("1"), tilts[name], name))
        stacks[os.path.join(folder, image)] = tilts[name]
    for i, group in enumerate(optics["OpticsGroup"]):
        if optics["CtfDataAreCtfPremultiplied"][i] and not optics["ImageDimensionality"][i] == 2:
            out.breaks("2D stacks", "optics group %s" % group)
        if abs(optics["TomoTiltSeriesPixelSize"][i] - optics["ImagePixelSize"][i]) > 1e-6 * optics["ImagePixelSize"][i]:
            out.breaks("units", "coordinates are pixels of the images for one reader and of the tilt series for others")
        if any(abs(size - optics["TomoTiltSeriesPixelSize"][i]) > 1e-6 * size for size in pixel.values()):
            out.breaks("units", "the tables have different pixel sizes")
    if images:
        there = {stack: stack for stack in stacks if os.path.exists(stack)}
        if len(there) < len(stacks):
            out.breaks("paths", "%d stacks are not there" % (len(stacks) - len(there)))
        _stacks(there, stacks, out)
    return out
