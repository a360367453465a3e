"""Form parameters made from the options of the verbs: the same names, texts, limits and defaults."""

import re
from dataclasses import fields

from pyworkflow.protocol import (
    GPU_LIST,
    LEVEL_ADVANCED,
    LEVEL_NORMAL,
    USE_GPU,
    BooleanParam,
    EnumParam,
    FileParam,
    FloatParam,
    IntParam,
    Range,
    StringParam,
)

from ..options import VERBS, ParticleTableOptions, SizeOptions, TiltSeriesOptions, flag

# What the form says for choices that would be a bare number or word.
SHOWN = {("handedness", 0): "as the tilt series", ("handedness", 1): "No (+1)", ("handedness", -1): "Yes (-1)",
         ("hand", 0): "as the tilt series", ("hand", 1): "+1", ("hand", -1): "-1",
         ("centre", "relion"): "voxel N/2", ("centre", "imod"): "IMOD's (N-1)/2"}
# Below everything else, in all forms alike.
COMPUTE = ("device", "threads", "memory")
# What tables of other programs are asked, and sets of a project know.
OF_TABLES = tuple({spec.name for kind in (TiltSeriesOptions, ParticleTableOptions, SizeOptions)
                   for spec in fields(kind)} - {"hand", "centre"}) + ("motion", "per_series", "output")


# What scipion-em-reliontomo calls the fields of these protocols, so that workflows are carried over easily.
NAMES = {(verb, option): name for verb in ("pseudosubtomo", "particle") for option, name in (
    ("binning", "binningFactor"), ("box", "boxSize"), ("crop", "croppedBoxSize"), ("min_frames", "minNoFrames"),
    ("stack2d", "write2dStacks"), ("float16", "outputInFloat16"), ("hand", "handedness"),
    ("threads", "binThreads"))}
# The same of their values: No and Yes of that plugin's question are the first two here.
ORDER = {(verb, "hand"): (1, -1, 0) for verb in ("pseudosubtomo", "particle")}
# What the menu calls the verbs.
PROTOCOLS = {"reconstruct": "reconstruct tomograms", "subtomo": "export sub-tomograms",
             "series": "export for tomoDRGN / cryoDRGN", "pseudosubtomo": "extract pseudo-subtomograms",
             "particle": "reconstruct particle", "average": "average sub-tomograms",
             "intersect": "intersect particles", "duplicates": "remove duplicates", "select": "select particles"}
LABELS = {(verb, "hand"): "Does focus decrease with Z distance?" for verb in ("pseudosubtomo", "particle")}


class Within(Range):
    """Limits of a number that may be left empty."""

    def __call__(self, value):
        """Return what is wrong with a value; a list of str."""
        return [] if value is None else super().__call__(value)


def unanswered(protocol, verb):
    """Labels of the numbers that a form has no default for and that are empty."""
    out = []
    for spec in fields(VERBS[verb]) if verb else ():
        name = paramName(spec.name, verb)
        param = protocol.getParam(name) if spec.metadata["ask"] else None
        if param is not None and protocol.evalParamCondition(name) and getattr(protocol, name).get() is None:
            out.append(param.getLabel())
    return out


def paramName(option, verb=""):
    """Scipion's spelling of an option: ``pixel_size`` becomes ``pixelSize``."""
    first, *others = option.split("_")
    return NAMES.get((verb, option), first + "".join(word.capitalize() for word in others))


#: Per verb the groups of its form: what they are about, and their options; a label with several stands for a line.
_SHIFT = ("Shift (Å)", {"shift_x": "x", "shift_y": "y", "shift_z": "z"})
_POSITIONS = ("How positions are read.", "centre", "allow_loss")
_CENTRING = "The particle is cut out about this point, in the frame of the refined map."
GROUPS = {
    "reconstruct": {
        "Tomograms": ("Pixel size and extent.", "pixel_size", (
            "Unbinned size (px)", {"size_x": "x", "size_y": "y", "size_z": "z"}), "full_voxels"),
        "Odd and even": ("Pairs of tomograms that share no noise.", "halves", "halves_by"),
        "Deconvolution": ("Tomograms that are easier on the eye.", "deconvolve", (
            "Filter", {"deconv_strength": "strength", "deconv_falloff": "falloff",
                       "deconv_highpass": "high-pass (Å)"})),
        "Method": ("How images become a volume.", "method", "iterations"),
        "CTF and dose": ("What is corrected and weighted.", "ctf", "hand", "dose_weighting"),
        "Tilt images": ("What is done to images first.", "invert", "normalize", "bad_pixels")},
    "subtomo": {
        "Positions": _POSITIONS,
        "Size": ("What is cut out.", "species", "pixel_size", "box", "diameter"),
        "Centre and orientation": (_CENTRING, _SHIFT, "prerotate"),
        "Tilts": ("Which tilts, and which particles they must show.", "first_tilts", "min_tilts"),
        "CTF": ("Defocus and 3D CTF.", "hand", "sparse"),
        "Images": ("What is done to images and volumes.", "invert", "normalize_input", "normalize_output",
                   "bad_pixels"),
        "Numerics": ("Exactness against time.", "interpolation", "exact"),
        "Files": ("Table and volumes.", "star", "format", "relative_paths", "float16")},
    "series": {
        "Positions": _POSITIONS,
        "Program": ("What is checked and which form the tables have.", "reader", "form"),
        "Size": ("What is cut out.", "species", "pixel_size", "box", "diameter"),
        "Centre": (_CENTRING, _SHIFT),
        "Tilts": ("Which tilts, and which particles they must show.", "first_tilts", "min_tilts"),
        "CTF": ("Defocus of every image.", "hand"),
        "Images": ("What is done to images.", "invert", "normalize_input", "origins", "bad_pixels"),
        "Files": ("Table and stacks.", "stacks", "star", "all_columns", "relative_paths", "float16")},
    "pseudosubtomo": {
        "Positions": _POSITIONS,
        "Size": ("What is cut out.", "binning", "box", "crop"),
        "Centre": (_CENTRING, _SHIFT),
        "Tilts": ("Which tilts, and which particles they must show.", "max_dose", "min_frames"),
        "Output": ("Stacks or volumes.", "stack2d", "float16", "only_project", "cone_weight", (
            "Cone", {"cone_angle": "angle (degrees)", "cone_sigma": "width at its tip (px)"})),
        "Images": ("What is done to images.", "ctf", "invert", "circle", "precrop", "whiten", "exact", "bad_pixels"),
        "Poses": ("How the table's alignment is kept.", "apply_offsets", "apply_orientations")},
    "particle": {
        "Positions": _POSITIONS,
        "Size": ("Of the map.", "binning", "box", "crop", "symmetry"),
        "Centre": (_CENTRING, _SHIFT),
        "Tilts": ("Which tilts, and which particles they must show.", "max_dose", "min_frames"),
        "Images": ("What is done to images.", "ctf", "invert", "whiten", "exact", "bad_pixels"),
        "Half maps": ("FSC of the half maps, and with a known map.", "diameter", "reference")},
    "average": {"Half maps": ("FSC of the half maps, and with a known map.", "diameter", "reference")},
    "intersect": {
        "Output": ("Any combination of the three sets.", "only_old", "both", "only_new"),
        "Matching": ("Which particles are the same.", "tolerance", "sources", "matching", "centre")},
    "duplicates": {"Duplicates": ("Which particles go.", "distance", "score", "centre")},
    "select": {"Selection": ("How the list of the analysis is read.", "counts", "exclude", "tolerance", "centre")},
}


def addGroups(form, verb, *titles, condition=None, last=False, shown=()):
    """Add groups of a verb's form.

    Parameters
    ----------
    form : pyworkflow.protocol.Form
    verb : str
    *titles : str
        Keys of `GROUPS`; all if there are none.
    condition : str, optional
        Under which they show.
    last : bool
        Whether what no group has comes after them; a new option thus needs no further place.
    shown : collection of str
        Options that the form has already.
    """
    specs = {spec.name: spec for spec in fields(VERBS[verb])}
    every = {name for _, *members in GROUPS[verb].values() for member in members
             for name in (member[1] if isinstance(member, tuple) else (member,))}
    for title in titles or GROUPS[verb]:
        text, *members = GROUPS[verb][title]
        plain = [member for member in members if not isinstance(member, tuple)]
        hidden = len(plain) == len(members) and all(_level(specs[name]) == LEVEL_ADVANCED for name in plain)
        group = form.addGroup(title, help=text, expertLevel=LEVEL_ADVANCED if hidden else LEVEL_NORMAL,
                              **({"condition": condition} if condition else {}))
        for member in members:
            if isinstance(member, tuple):
                label, names = member
                first = specs[next(iter(names))]
                when = _conditions(first, specs, verb, condition)
                line = group.addLine(label, help=first.metadata["help"], expertLevel=_level(first),
                                     **({"condition": when} if when else {}))
                addOptions(line, verb, *names, condition=condition, labels=names)
            else:
                addOptions(group, verb, member, condition=condition)
    left = [name for name in specs if name not in every and name not in COMPUTE + OF_TABLES + tuple(shown)]
    if last and left:
        addOptions(form.addGroup("More", help="What else can be chosen."), verb, *left, condition=condition)


def _level(spec):
    return LEVEL_ADVANCED if spec.metadata["advanced"] else LEVEL_NORMAL


def _conditions(spec, specs, verb, condition):
    """When an option shows, as a condition of the form; an empty text for always."""
    conditions = [condition] if condition else []
    conditions += ["%s == %r" % (paramName(other, verb), _formValue(specs[other], value, verb))
                   for other, value in spec.metadata["when"].items()]
    return " and ".join("(%s)" % one for one in conditions)


def addOptions(form, verb, *names, condition=None, labels=()):
    """Add form parameters for the named options of a verb, which show where they count, and under a condition.

    ``labels``: what they are called in a line of several, by name.
    """
    specs = {spec.name: spec for spec in fields(VERBS[verb])}
    for name in names:
        spec, meta = specs[name], specs[name].metadata
        unit = " (%s)" % meta["unit"].replace("A", "Å") if meta["unit"] else ""
        label = LABELS.get((verb, name), meta["label"]) + unit
        common = dict(label=dict(labels).get(name, label), help=meta["help"], default=spec.default,
                      expertLevel=_level(spec))
        shown = _conditions(spec, specs, verb, condition)
        if shown:
            common["condition"] = shown
        kind = StringParam
        if meta["choices"]:
            kind, choices = EnumParam, _choices(spec, verb)
            common.update(choices=[SHOWN.get((paramName(name, verb), c), str(c)) for c in choices],
                          default=choices.index(spec.default), display=EnumParam.DISPLAY_HLIST)
        elif meta["kind"] == "input":
            kind = FileParam
        elif isinstance(spec.default, bool):
            kind = BooleanParam
        elif isinstance(spec.default, (int, float)):
            kind = IntParam if isinstance(spec.default, int) else FloatParam
            common["validators"] = [Within(meta["low"], meta["high"], "%s: give a value from %g to %g %s" % (
                meta["label"], meta["low"], meta["high"], meta["unit"]))]
            # Whoever does not think of these gets what nobody wants: the form proposes them, and takes none of its own.
            common.update(allowsNull=True, **({"default": None} if meta["ask"] else {}))
        form.addParam(paramName(name, verb), kind, **common)


def _choices(spec, verb):
    """The values of an option in the order in which its form parameter numbers them; none where it has no choices."""
    return ORDER.get((verb, spec.name), spec.metadata["choices"])


def _formValue(spec, value, verb):
    """A value of an option as its form parameter has it."""
    return _choices(spec, verb).index(value) if spec.metadata["choices"] else value


def addCompute(form, verb, threads):
    """Add the parameters that say where to compute; ``threads`` of Scipion, one of which only watches."""
    known = {spec.name for spec in fields(VERBS[verb])}
    if "device" in known:
        form.addHidden(USE_GPU, BooleanParam, default=True, label="Use GPU", help="Use a GPU if there is one on which "
                       "a real kernel runs; otherwise, or with No, the CPU computes.")
        form.addHidden(GPU_LIST, StringParam, default="0", label="GPU IDs", help="One tilt series at a time is worked "
                       "on per GPU of this list, as threads allow. Without a GPU, choose No to work on several at once "
                       "on the CPU.")
    group = form.addGroup("Compute", help="Where and with how much of it; all programs and forms alike.")
    addOptions(group, verb, *[name for name in COMPUTE if name in known])
    if issubclass(VERBS[verb], TiltSeriesOptions):
        group.addParam("seriesPerJob", IntParam, default=1, expertLevel=LEVEL_ADVANCED, label="Tilt series per job",
                      validators=[Range(1, 10000, "Give at least one tilt series per job")],
                      help="Every job starts Python and reads tables, some seconds: where a tilt series takes no "
                      "longer, several in a job save time, above all in a queue. They are worked on one after another.")
    form.addParallelSection(threads=threads, mpi=0)


def spoken(protocol, verb, text, inputs=()):
    """A message of the command line in the words of a form.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol
    verb : str
    text : str
        Names options as the command line does.
    inputs : dict of str to str
        Parameters of the form that stand for an option, beside those that are called like it.

    Returns
    -------
    str
        Labels instead of options; one that is not in the form has the label that it would have.
    """
    labels = {flag(spec.name): spec.metadata["label"] for options in VERBS.values() for spec in fields(options)}
    for spec in fields(VERBS[verb]) if verb else ():
        param = protocol.getParam(dict(inputs).get(spec.name, paramName(spec.name, verb)))
        own = LABELS.get((verb, spec.name), spec.metadata["label"])
        labels[flag(spec.name)] = own if param is None or spec.name not in dict(inputs) else param.getLabel()

    def label(match):
        name, no = match.group(0), match.group(1)
        if no and "--" + name[5:] in labels:
            return "\"%s\" No" % labels["--" + name[5:]]
        if name not in labels:
            return name
        return labels[name] if match.start() == 0 else '"%s"' % labels[name]

    text = re.sub(r"\b(%s) (?=--)" % "|".join(VERBS), lambda match: PROTOCOLS.get(match.group(1), "") + ", ", text)
    return re.sub(r"--(no-)?[a-z][a-z0-9]*(?:-[a-z0-9]+)*", label, text)


def optionValues(protocol, verb):
    """Return what a form says for every option of the verb that it has, as plain values."""
    values = {}
    for spec in fields(VERBS[verb]):
        name = paramName(spec.name, verb)
        if protocol.getParam(name) is not None:
            value, choices = getattr(protocol, name).get(), _choices(spec, verb)
            values[spec.name] = choices[value] if choices and value is not None else value
            if value is None:  # a field that was emptied, or a workflow of another plugin left it so
                values[spec.name] = spec.default
    if not protocol.usesGpu() and values.get("device") == "auto":
        values["device"] = "cpu"
    return values
