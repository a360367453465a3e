"""Carry out a planned operation: skip what is done, work on a tilt series at a time per device, record, collect."""

import ctypes
import importlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, replace

from .. import __version__
from .. import options as options_module
from ..engine.backend import keep_freed_memory, select_backends
from ..errors import InputError, TomoexportError
from ..io import atomic
from ..io.lock import lock
from ..io.manifest import Manifest
from ..io.outputs import Outputs
from ..io.paths import safe_stem
from ..io.plainfile import open_plain
from ..io.species import read_species
from .contract import Verb
from .memory import budget
from .plan import Problem, size, state

log = logging.getLogger(__name__)


def read_options(verb, values):
    """Options of a verb from plain values; what a species of M says fills in for what is not given.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.
    values : dict
        As `options.from_dict`.

    Returns
    -------
    object
        The verb's options.

    Raises
    ------
    InputError
        As `options.from_dict`, or if the species cannot be read.
    """
    if isinstance(values, dict) and values.get("species"):
        known = read_species(values["species"])
        found = {"particles": known.particles, "pixel_size": known.pixel_size, "box": known.box + known.box % 2,
                 "diameter": known.diameter}
        values = dict({name: value for name, value in found.items() if value}, **values)
    return options_module.from_dict(verb, values)


def verb_module(verb) -> Verb:
    """The module of this package that carries out a verb.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.

    Returns
    -------
    contract.Verb
    """
    return importlib.import_module("." + verb, __package__)


def plan(verb, options, only=None, chosen=None):
    """Plan a verb, and look at the output folder if one is given.

    Parameters
    ----------
    verb : str
        Key of `options.VERBS`.
    options : object
        The verb's options.
    only : list of str, optional
        Names of the tilt series asked for; all by default.
    chosen : collection of str, optional
        Options that somebody chose; all by default.

    Returns
    -------
    plan.Plan

    Raises
    ------
    InputError
        If the inputs cannot be read at all; what concerns a part of them is a problem of the plan.
    """
    with _explaining(options.output):
        planned = _planned(verb, options, only)
    planned.problems += [] if chosen is None else _nobody_chose(options, chosen)
    if options.output:
        try:
            left = [unit for unit in planned.units if not finished(options, unit)]
            check_folder(options.output, sum(unit.disk_bytes for unit in left))
            planned.problems += _is_read(verb, options, left)
            planned.done = len(planned.units) - len(left)
        except InputError as error:
            planned.problems.append(Problem("error", error.item, error.cause, error.remedy))
    return planned


def _planned(verb, options, only=None):
    """The plan of a verb, whose units know the files of its options as they were before they were read."""
    named = [getattr(options, spec.name) for spec in fields(options) if spec.metadata["kind"] == "input"]
    before = {path: state(path) for path in named if path and os.path.isfile(path)}
    planned = verb_module(verb).plan(options_module.check(options), only)
    for path, known in before.items():
        if not os.path.isfile(path) or state(path) != known:
            raise InputError(path, "it has changed while it was read", "Run again when it is complete")
    for unit in planned.units:
        unit.inputs.update(before)
    return planned


def _is_read(verb, options, units):
    """Problems of tables that an earlier run collected, and that would be removed while this one reads them."""
    tables = {os.path.realpath(os.path.join(options.output, name)) for name in Outputs(options.output, verb).tables()}
    read = {path for unit in units for path in unit.inputs if os.path.realpath(path) in tables} if tables else ()
    return [Problem("error", path, "it names results in %s that would be replaced while it is read" % options.output,
                    "Choose another --output folder") for path in sorted(read)]


def _nobody_chose(options, chosen):
    """Warnings for values that matter and are a default."""
    return [Problem("warning", options_module.flag(spec.name), "%s %s is a default that nobody chose" % (
        getattr(options, spec.name), spec.metadata["unit"]), "Choose one for your data") for spec in fields(options)
        if spec.metadata["ask"] and spec.name not in chosen]


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
        default; ``part``: two numbers, I and N, to work on every N-th tilt series from the I-th on (from 0) instead;
        ``collect``: whether to write the tables that join all series, by default only if all are worked on.

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
    unknown = set(job) - {"verb", "options", "series", "collect", "part"}
    if unknown:
        raise InputError("job", "unknown entries " + ", ".join(sorted(unknown)),
                         "Use verb, options, series, collect, part")
    options = read_options(job.get("verb"), job.get("options", {}))
    if job.get("part") is not None:
        _check_part(job, options)
    chosen = set(job.get("options", {})) | ({"pixel_size", "box"} if getattr(options, "species", "") else set())
    if not options.output:
        raise InputError("--output", "no folder is given", "Name the folder to write to")
    with _explaining(options.output):
        return _run(job, options, chosen)


def _run(job, options, chosen):
    verb, only = job["verb"], job.get("series") or None
    part = job.get("part")
    collect = job.get("collect", only is None and part is None)
    planned, results = None, []
    if only or job.get("series") is None:
        planned = plan(verb, options, only, chosen)
        results = _work(verb, options, planned, only, part)
    out = {"results": results, "failed": [r["ts_id"] for r in results if r["status"] == "failed"]}
    if results and len(out["failed"]) == len(results):
        raise _all_failed([(r["ts_id"], r["error"]) for r in results])
    if collect:
        if only or part is not None or not results:
            planned = _planned(verb, options)
            planned.raise_errors()
            results = [_recorded(options, unit) for unit in planned.units]
        out["collected"] = _collect(verb, options, planned, results)
        for name, value in out["collected"].items():
            log.info("%s: %s", name.replace("_", " "), _plain(value))
    return out


def _recorded(options, unit):
    """What is known of a unit that this run did not work on; one of other inputs or options is none of its results."""
    manifest, result = Manifest(options.output), _load(result_path(options, unit.name))
    if not unit.error and manifest.known(unit.name) and not manifest.holds(unit.name, unit.fingerprint):
        changed = manifest.changes(unit.name, unit.depends)
        raise InputError(unit.name, "its result is of other inputs or options than these%s" % (
            ": " + ", ".join(changed) if changed else ""), "Run it again, or collect with what it was made of")
    if not unit.error and finished(options, unit):
        return dict(result, status="skipped")
    if result is not None and result["status"] == "failed":
        return result
    reason = str(unit.error) if unit.error else "%s: it has no result, or files of it are gone. Run it." % unit.name
    log.warning("%s", reason)
    return {"ts_id": unit.name, "status": "failed", "error": reason}


def _collect(verb, options, planned, results):
    """Join the results of all tilt series; what it writes appears at once, if all is still as it was planned."""
    good = [unit for unit, result in zip(planned.units, results) if result["status"] != "failed"]
    manifest = Manifest(options.output)

    def unchanged():
        for unit in good:
            unit.check_inputs()
            if not manifest.holds(unit.name, unit.fingerprint):
                raise InputError(unit.name, "another run with other inputs or options has begun to replace its result",
                                 "Let one of the two end, and run this again")

    if results and not good:
        raise _all_failed([(r["ts_id"], r["error"]) for r in results])
    unchanged()
    with Outputs(options.output, verb) as outputs, outputs.collecting(unchanged):
        return verb_module(verb).collect(options, results)


def _plain(value):
    """A value of `collect` as a line for people."""
    if isinstance(value, list):
        return "%d" % len(value) + "".join("\n  %s" % v for v in value[:20]) + ("\n  ..." if len(value) > 20 else "")
    return "%.4g" % value if isinstance(value, float) else str(value)


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
    return (not unit.error and Manifest(options.output).done(unit.name, unit.fingerprint)
            and _load(result_path(options, unit.name)) is not None)


def _all_failed(errors):
    """The error of a run in which no tilt series succeeded; ``errors``: pairs of name and reason."""
    if len(errors) > 1:
        return InputError("all %d tilt series failed" % len(errors), " ".join(reason for _, reason in errors))
    (name, reason), = errors
    return InputError(name, reason[len(name) + 2:] if reason.startswith(name + ": ") else reason)


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


def _work(verb, options, planned, only, part):
    """Work on the units of a plan, or on a part of them; returns their results in the plan's order."""
    module = verb_module(verb)
    for line in planned.lines():
        log.info("%s", line)
    planned.raise_errors()
    if only is None and planned.units and all(unit.error for unit in planned.units):
        raise _all_failed([(unit.name, str(unit.error)) for unit in planned.units])
    if part is not None:
        planned = _part(planned, *part)
    os.makedirs(options.output, exist_ok=True)
    with Outputs(options.output, verb, _tables(module, options)) as outputs:
        return _settle_all(module, options, planned, outputs)


def _tables(module, options):
    """Tables that a verb is going to write, relative to the output folder."""
    return list(module.VERB.writes(options)) if hasattr(module, "VERB") else []


def _check_part(job, options):
    """See that a part is one, and of something that has parts."""
    number, count = job["part"]
    if not 0 <= number < count:
        raise InputError("--part", "%d/%d is none of %d parts" % (number, count, count),
                         "Count from 0: 0/%d to %d/%d" % (count, count - 1, count) if count > 0 else "Give 0/1")
    if not isinstance(options, options_module.TiltSeriesOptions):
        raise InputError("--part", "%s does not work per tilt series" % job["verb"], "Run it whole, once")
    if job.get("series") is not None:
        raise InputError("--part", "tilt series are named, too", "Give one of the two")


def _part(planned, number, count):
    """A part of a plan: every so many-th unit; all parts of one run make the same plan."""
    units = planned.units[number::count]
    log.info("part %d/%d: %s", number, count, ", ".join(unit.name for unit in units) or "no tilt series")
    return replace(planned, units=units)


def _settle_all(module, options, planned, outputs):
    """Results of all units of a plan, in its order."""
    results = [_settle(unit, options) for unit in planned.units]
    left = [i for i, result in enumerate(results) if result is None]
    if left:
        good = sum(not planned.units[i].error for i in left)
        backends = select_backends(getattr(options, "device", "cpu"), getattr(options, "threads", 0), max(1, good))
        log.info("computing on %s", ", ".join(backend.describe() for backend in backends))
        keep_freed_memory()
        shares = {}
        if len(backends) > 1:
            memory = budget(options) / len(backends) / 1e9
            shares = {b.device: replace(options, threads=b.threads, memory=memory) for b in backends}

        def work(i, backend):
            if shares:
                log.info("%s: begun on %s", planned.units[i].name, backend.describe())
            results[i] = _settle(planned.units[i], shares.get(backend.device, options), module, backend, outputs)

        _distribute(left, backends, work)
    return results


def _settle(unit, options, module=None, backend=None, outputs=None):
    """Result of a unit: the recorded one if it is done, else a new one; None if there is no backend to make it."""
    with lock(options.output, unit.name):
        path = result_path(options, unit.name)
        if finished(options, unit):
            log.info("%s: already done with these inputs and options", unit.name)
            return dict(_load(path), status="skipped")
        if backend is None:
            return None
        _renew(unit, options, outputs)
        result = _one(module, unit, options, backend)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic.write_json(path, result, long=True)
        if result["status"] == "done":
            Manifest(options.output).record(unit.name, unit.fingerprint, result["files"] + [path], unit.depends)
        return result


def _renew(unit, options, outputs):
    """Forget what is recorded of a unit; tables go at once if files that they name are gone, and none is replaced."""
    manifest, before = Manifest(options.output), _load(result_path(options, unit.name))
    lost = manifest.lost(unit.name) if manifest.known(unit.name) else before is not None and before["status"] == "done"
    manifest.forget(unit.name)
    if lost and not unit.error:
        outputs.withdraw()


def _distribute(items, backends, work):
    """Let every device take the next item until none is left.

    A single device works in the calling thread, several in a thread each. After an exception no further item is
    begun, and it is raised when the others have finished theirs; an interrupt from the keyboard interrupts them too.

    Parameters
    ----------
    items : list
    backends : list of Backend
    work : callable
        Takes an item and a backend, which is active in its thread.
    """
    waiting, errors = deque(items), []

    def serve(backend):
        try:
            backend.activate()
            while waiting and not errors:
                try:
                    item = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                work(item, backend)
        except BaseException as error:
            errors.append(error)

    if len(backends) == 1:
        serve(backends[0])
    else:
        with redirect_stdout(_Lines(sys.stdout)):
            _in_threads(serve, backends, errors)
    if errors:
        raise errors[0]


def _in_threads(serve, backends, errors):
    """Serve every backend in a thread; an exception in the caller, such as an interrupt, interrupts them."""
    running = {}

    def body(backend, ended):
        try:
            serve(backend)
        finally:
            ended.set()

    def wait():
        for thread, ended in running.items():
            if thread.ident:
                while not ended.wait(0.5):  # in pieces: an interrupt may have reached another thread
                    pass
                thread.join()

    try:
        for backend in backends:
            ended = threading.Event()
            thread = threading.Thread(target=body, args=(backend, ended), name=backend.describe(), daemon=True)
            running[thread] = ended
            thread.start()
        wait()
    except BaseException as stop:
        errors.insert(0, stop)
        for thread, ended in running.items():
            if thread.ident and not ended.is_set():
                # Comes at its next step in Python, as an interrupt does in the main thread.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident),
                                                           ctypes.py_object(KeyboardInterrupt))
        wait()
        raise


class _Lines:
    """A text stream that several threads share: no terminal, so that progress comes as whole lines."""

    def __init__(self, stream):
        self._stream, self._lock = stream, threading.Lock()

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def isatty(self):
        return False

    def write(self, text):
        with self._lock:
            return self._stream.write(text)


def _one(module, unit, options, backend):
    """Work on one unit; a failure becomes its result, so that the others go on."""
    start = time.monotonic()
    result = {"ts_id": unit.name, "status": "failed", "error": "", "version": __version__}
    if unit.error:
        result["error"] = str(unit.error)
        log.error("%s", unit.error)
        return result
    try:
        unit.check_inputs()
        made = module.execute(unit, options, backend)
        unit.check_inputs()
        result.update({"device": "GPU" if getattr(backend, "on_gpu", False) else "CPU",
                       "hand": unit.facts.get("hand", ""), **made, "status": "done"})
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
    log.debug("%s: %.3f s", unit.name, time.monotonic() - start)
    for note in result.get("notes", []):
        log.warning("%s: %s", unit.name, note)
    return result


def _load(path):
    """A recorded result; None if there is none, or it cannot be read."""
    try:
        with open_plain(path, "r", encoding="utf-8") as handle:
            result = json.load(handle)
    except (OSError, ValueError, RecursionError, InputError):
        return None
    return result if isinstance(result, dict) and {"ts_id", "status"} <= set(result) else None


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
