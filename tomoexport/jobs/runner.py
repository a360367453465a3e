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
from ..io.manifest import Manifest, fingerprint, lock
from ..io.paths import safe_stem
from ..io.species import read_species
from .contract import Verb
from .memory import budget
from .plan import RESULTS, Problem, size

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
        planned = verb_module(verb).plan(options_module.check(options), only)
    planned.problems += [] if chosen is None else _nobody_chose(options, chosen)
    if options.output:
        try:
            check_folder(options.output, sum(u.disk_bytes for u in planned.units if not finished(options, u)))
        except InputError as error:
            planned.problems.append(Problem("error", error.item, error.cause, error.remedy))
    return planned


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
    options = read_options(job.get("verb"), job.get("options", {}))
    chosen = set(job.get("options", {})) | ({"pixel_size", "box"} if getattr(options, "species", "") else set())
    if not options.output:
        raise InputError("--output", "no folder is given", "Name the folder to write to")
    with _explaining(options.output):
        return _run(job, options, chosen)


def _run(job, options, chosen):
    module = verb_module(job["verb"])
    only = job.get("series") or None
    collect = job.get("collect", only is None)
    results = []
    if only or job.get("series") is None:
        results = _work(job["verb"], options, only, chosen)
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


def _work(verb, options, only, chosen):
    module, planned = verb_module(verb), plan(verb, options, only, chosen)
    for line in planned.lines():
        log.info("%s", line)
    planned.raise_errors()
    if only is None and planned.units and all(unit.error for unit in planned.units):
        raise _all_failed([(unit.name, str(unit.error)) for unit in planned.units])
    os.makedirs(options.output, exist_ok=True)
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
            results[i] = _settle(planned.units[i], shares.get(backend.device, options), module, backend)

        _distribute(left, backends, work)
    return results


def _settle(unit, options, module=None, backend=None):
    """Result of a unit: the recorded one if it is done, else a new one; None if there is no backend to make it."""
    with lock(options.output, unit.name):
        path = result_path(options, unit.name)
        if finished(options, unit):
            log.info("%s: already done with these inputs and options", unit.name)
            return dict(_load(path), status="skipped")
        if backend is None:
            return None
        Manifest(options.output).forget(unit.name)
        result = _one(module, unit, options, backend)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic.write_json(path, result)
        if result["status"] == "done":
            Manifest(options.output).record(unit.name, _key(unit), result["files"] + [path])
        return result


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
