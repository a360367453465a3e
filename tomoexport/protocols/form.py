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
SHOWN = {("hand", 0): "as the tilt series", ("hand", 1): "+1", ("hand", -1): "-1",
         ("centre", "relion"): "voxel N/2", ("centre", "imod"): "IMOD's (N-1)/2"}
# Below everything else, in all forms alike.
COMPUTE = ("bad_pixels", "device", "threads", "memory")
# What tables of other programs are asked, and sets of a project know.
OF_TABLES = tuple({spec.name for kind in (TiltSeriesOptions, ParticleTableOptions, SizeOptions)
                   for spec in fields(kind)} - {"hand", "centre"}) + ("motion", "per_series", "output")


# What scipion-em-reliontomo calls the fields of these protocols, so that workflows are carried over easily.
NAMES = {(verb, option): name for verb in ("pseudosubtomo", "particle") for option, name in (
    ("binning", "binningFactor"), ("box", "boxSize"), ("crop", "croppedBoxSize"), ("min_frames", "minNoFrames"),
    ("stack2d", "write2dStacks"), ("float16", "outputInFloat16"))}


def paramName(option, verb=""):
    """Scipion's spelling of an option: ``pixel_size`` becomes ``pixelSize``."""
    first, *others = option.split("_")
    return NAMES.get((verb, option), first + "".join(word.capitalize() for word in others))


def addOptions(form, verb, *names, condition=None):
    """Add form parameters for the named options of a verb, which show where they count, and under a condition."""
    specs = {spec.name: spec for spec in fields(VERBS[verb])}
    for name in names:
        spec, meta = specs[name], specs[name].metadata
        unit = " (%s)" % meta["unit"].replace("A", "Å") if meta["unit"] else ""
        common = dict(label=meta["label"] + unit, help=meta["help"], default=spec.default,
                      expertLevel=LEVEL_ADVANCED if meta["advanced"] else LEVEL_NORMAL)
        conditions = [condition] if condition else []
        conditions += ["%s == %r" % (paramName(other, verb), _formValue(specs[other], value))
                       for other, value in meta["when"].items()]
        if conditions:
            common["condition"] = " and ".join("(%s)" % one for one in conditions)
        kind = StringParam
        if meta["choices"]:
            kind = EnumParam
            common.update(choices=[SHOWN.get((name, c), str(c)) for c in meta["choices"]],
                          default=meta["choices"].index(spec.default), display=EnumParam.DISPLAY_HLIST)
        elif meta["kind"] == "input":
            kind = FileParam
        elif isinstance(spec.default, bool):
            kind = BooleanParam
        elif isinstance(spec.default, (int, float)):
            kind = IntParam if isinstance(spec.default, int) else FloatParam
            common["validators"] = [Range(meta["low"], meta["high"], "%s: give a value from %g to %g %s" % (
                meta["label"], meta["low"], meta["high"], meta["unit"]))]
        form.addParam(paramName(name, verb), kind, **common)


def _formValue(spec, value):
    """A value of an option as its form parameter has it."""
    return spec.metadata["choices"].index(value) if spec.metadata["choices"] else value


def addOthers(form, verb, *shown, condition=None):
    """Add form parameters for the options of a verb that are not shown yet; a new one thus needs no further place."""
    addOptions(form, verb, *[spec.name for spec in fields(VERBS[verb])
                             if spec.name not in shown + COMPUTE + OF_TABLES], condition=condition)


def addCompute(form, verb, threads):
    """Add the parameters that say where to compute; ``threads`` of Scipion, one of which only watches."""
    known = {spec.name for spec in fields(VERBS[verb])}
    if "device" in known:
        form.addHidden(USE_GPU, BooleanParam, default=True, label="Use GPU", help="Use a GPU if there is one on which "
                       "a real kernel runs; otherwise, or with No, the CPU computes.")
        form.addHidden(GPU_LIST, StringParam, default="0", label="GPU IDs", help="One tilt series at a time is worked "
                       "on per GPU of this list, as threads allow. Without a GPU, choose No to work on several at once "
                       "on the CPU.")
    addOptions(form, verb, *[name for name in COMPUTE if name in known])
    if issubclass(VERBS[verb], TiltSeriesOptions):
        form.addParam("seriesPerJob", IntParam, default=1, expertLevel=LEVEL_ADVANCED, label="Tilt series per job",
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
    labels = {}
    for spec in fields(VERBS[verb]) if verb else ():
        param = protocol.getParam(dict(inputs).get(spec.name, paramName(spec.name, verb)))
        labels[flag(spec.name)] = spec.metadata["label"] if param is None else param.getLabel()

    def label(match):
        name, no = match.group(0), match.group(1)
        if no and "--" + name[5:] in labels:
            return "\"%s\" No" % labels["--" + name[5:]]
        if name not in labels:
            return name
        return labels[name] if match.start() == 0 and text[match.end():].startswith(":") else '"%s"' % labels[name]

    return re.sub(r"--(no-)?[a-z][a-z0-9]*(?:-[a-z0-9]+)*", label, text)


def optionValues(protocol, verb):
    """Return what a form says for every option of the verb that it has, as plain values."""
    values = {}
    for spec in fields(VERBS[verb]):
        name = paramName(spec.name, verb)
        if protocol.getParam(name) is not None:
            value, choices = getattr(protocol, name).get(), spec.metadata["choices"]
            values[spec.name] = choices[value] if choices and value is not None else value
            if value is None:  # a field that was emptied, or a workflow of another plugin left it so
                values[spec.name] = spec.default
    if not protocol.usesGpu() and values.get("device") == "auto":
        values["device"] = "cpu"
    return values
