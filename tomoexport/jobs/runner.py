"""Carry out a planned operation: skip what is done, work on one tilt series at a time, record, collect."""

import importlib
import json
import logging
import os
import time
import traceback
from contextlib import contextmanager

from .. import __version__
from .. import options as options_module
from ..engine.backend import keep_freed_memory, select_backend
from ..errors import InputError, TomoexportError
from ..io import atomic
from ..io.manifest import Manifest, fingerprint, lock
from ..io.paths import safe_stem
from .plan import Problem, size

log = logging.getLogger(__name__)

RESULTS = 1  # to be raised when the same inputs and options give other numbers, so that nothing older is kept


def verb_module(verb):
    """The module of this package that carries out a verb.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.

    Returns
    -------
    module
        With ``plan``, ``execute`` and ``collect``.
    """
    return importlib.import_module("." + verb, __package__)


def plan(verb, options, only=None):
    """Plan a verb, and look at the output folder if one is given.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.
    options : object
        The verb's options.
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan

    Raises
    ------
    InputError
        If the inputs cannot be read at all; what concerns a part of them is a problem of the plan.
    """
    with _explaining(options.output):
        planned = verb_module(verb).plan(options_module.check(options), only)
    if options.output:
        try:
            check_folder(options.output, sum(u.disk_bytes for u in planned.units if not finished(options, u)))
        except InputError as error:
            planned.problems.append(Problem("error", error.item, error.cause, error.remedy))
    return planned


def result_path(options, name):
    """Where the result of a tilt series is recorded.

    Parameters
    ----------
    options : object
        The verb's options.
    name : str
        Tilt series.

    Returns
    -------
    str
    """
    return os.path.join(options.output, "results", safe_stem(name) + ".json")


def run(job):
    """Carry out a job.

    Parameters
    ----------
    job : dict
        ``verb``, ``options`` (plain values), and optionally ``series``: names of the tilt series to work on, all by
        default; ``collect``: whether to write the tables that join all series, by default only if all are worked on.

    Returns
    -------
    dict
        ``results``: one dict per tilt series with ``status`` 'done', 'skipped' or 'failed'; ``collected``: what the
        verb's `collect` says; ``failed``: names.

    Raises
    ------
    InputError
        If the job cannot be planned, or every tilt series failed.
    """
    unknown = set(job) - {"verb", "options", "series", "collect"}
    if unknown:
        raise InputError("job", "unknown entries " + ", ".join(sorted(unknown)), "Use verb, options, series, collect")
    options = options_module.from_dict(job.get("verb"), job.get("options", {}))
    if not options.output:
        raise InputError("--output", "no folder is given", "Name the folder to write to")
    with _explaining(options.output):
        return _run(job, options)


def _run(job, options):
    module = verb_module(job["verb"])
    only = job.get("series") or None
    collect = job.get("collect", only is None)
    results = []
    if only or job.get("series") is None:
        results = _work(job["verb"], options, only)
    out = {"results": results, "failed": [r["ts_id"] for r in results if r["status"] == "failed"]}
    if results and len(out["failed"]) == len(results):
        raise _all_failed([(r["ts_id"], r["error"]) for r in results])
    if collect:
        out["collected"] = module.collect(options, results if only is None and results else recorded(options))
        for name, value in out["collected"].items():
            log.info("%s: %s", name.replace("_", " "), _plain(value))
    return out


def _plain(value):
    """A value of `collect` as a line for people."""
    if isinstance(value, list):
        return "%d" % len(value) + "".join("\n  %s" % v for v in value[:20]) + ("\n  ..." if len(value) > 20 else "")
    return "%.4g" % value if isinstance(value, float) else str(value)


def _key(unit):
    return fingerprint(RESULTS, unit.fingerprint)


def finished(options, unit):
    """Tell whether a unit's outputs are complete and of these inputs and options.

    Parameters
    ----------
    options : object
        The verb's options.
    unit : plan.Unit

    Returns
    -------
    bool
    """
    return (not unit.error and os.path.exists(result_path(options, unit.name))
            and Manifest(options.output).done(unit.name, _key(unit)))


def _all_failed(errors):
    """The error of a run in which no tilt series succeeded; ``errors``: pairs of name and reason."""
    return InputError("all %d tilt series failed" % len(errors) if len(errors) > 1 else errors[0][0],
                      " ".join(reason for _, reason in errors))


def _explained(error, item):
    """Turn an error of the system into one that names item, cause and remedy."""
    if isinstance(error, MemoryError):
        return InputError(item, "there is not enough memory (%s)" % (str(error) or "no number is known"),
                          "Choose a larger pixel size, fewer --threads, or a computer with more memory")
    return InputError(error.filename or item, error.strerror or error,
                      "Look at the disk and its permissions, then run the same again: what is finished is kept")


@contextmanager
def _explaining(item):
    try:
        yield
    except OSError as error:
        raise _explained(error, item) from error


def _work(verb, options, only):
    module, planned = verb_module(verb), plan(verb, options, only)
    for line in planned.lines():
        log.info("%s", line)
    planned.raise_errors()
    if only is None and planned.units and all(unit.error for unit in planned.units):
        raise _all_failed([(unit.name, str(unit.error)) for unit in planned.units])
    os.makedirs(options.output, exist_ok=True)
    manifest = Manifest(options.output)
    backend, results = None, []
    for unit in planned.units:
        with lock(options.output, unit.name):
            path = result_path(options, unit.name)
            if finished(options, unit):
                result = dict(_load(path), status="skipped")
                log.info("%s: already done with these inputs and options", unit.name)
            else:
                if backend is None:
                    backend = select_backend(getattr(options, "device", "cpu"), getattr(options, "threads", 0))
                    log.info("computing on %s", backend.describe())
                    keep_freed_memory()
                result = _one(module, unit, options, backend)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                atomic.write_json(path, result)
                if result["status"] == "done":
                    manifest.record(unit.name, _key(unit), result["files"] + [path])
        results.append(result)
    return results


def _one(module, unit, options, backend):
    """Work on one unit; a failure becomes its result, so that the others go on."""
    start = time.time()
    result = {"ts_id": unit.name, "status": "failed", "error": "", "version": __version__}
    if unit.error:
        result["error"] = str(unit.error)
        log.error("%s", unit.error)
        return result
    try:
        unit.check_inputs()
        made = module.execute(unit, options, backend)
        unit.check_inputs()
        result.update(made, status="done")
    except Exception as error:  # whatever it is, the other tilt series are not to suffer
        if isinstance(error, (OSError, MemoryError)):
            error = _explained(error, unit.name)
        elif not isinstance(error, TomoexportError):
            log.error("%s", traceback.format_exc())
            error = InputError(unit.name, "an unforeseen %s: %s" % (type(error).__name__, error),
                               "The log has the place; please report it")
        result["error"] = "%s: %s" % (unit.name, error) if unit.name not in str(error) else str(error)
        log.error("%s", result["error"])
        log.debug("%s", traceback.format_exc())
    result["seconds"] = round(time.time() - start, 3)
    for note in result.get("notes", []):
        log.warning("%s: %s", unit.name, note)
    return result


def recorded(options):
    """Results of all tilt series that were worked on so far, by file name.

    Parameters
    ----------
    options : object
        The verb's options.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        If there are none.
    """
    folder = os.path.join(options.output, "results")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    results = [_load(os.path.join(folder, n)) for n in names if n.endswith(".json")]
    if not results:
        raise InputError(options.output, "no results of tilt series are there", "Run the series first")
    return results


def _load(path):
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def check_folder(folder, needed):
    """See that a folder can be written to, or made, and that its disk has enough room.

    Parameters
    ----------
    folder : str
    needed : int
        Bytes.

    Raises
    ------
    InputError
    """
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        if os.path.exists(folder):
            raise InputError(folder, "it is a file, not a folder", "Choose another output folder")
        if os.path.islink(folder):
            raise InputError(folder, "it is a link to %s, which does not exist" % os.readlink(folder),
                             "Remove the link, or choose another output folder")
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(folder, "it cannot be written to", "Change its permissions, or choose another output folder")
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if needed > free:
        raise InputError(folder, "%s are needed and %s are free" % (size(needed), size(free)),
                         "Free some space or choose another output folder")
