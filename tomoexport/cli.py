"""The command line: one verb per operation, with the options of `options.py`, and check, doctor and run."""

import argparse
import json
import logging
import os
import sys

from . import __version__, lasting, options, stopping
from .errors import InputError, TomoexportError
from .io.atomic import write_json
from .io.plainfile import open_plain

EXIT_CODES = ("Exit code: 0 all is well; 1 some tilt series failed, the others are finished; 2 nothing could be done: "
              "wrong input, or every tilt series failed; 130 stopped by hand (Ctrl-C), 143 by SIGTERM. With --part it "
              "speaks of the part. `doctor`: 1 if a check fails. `check`: 2 if anything would fail.")
PART = ("Work on a part only: every N-th tilt series from the I-th on, counted from 0. The same command without --part "
        "does what is left and writes the tables. For arrays of a cluster's scheduler.")
_KEPT = "what is finished is kept, and the same command goes on from there"


def parser():
    """Build the argument parser.

    Returns
    -------
    argparse.ArgumentParser
    """
    # No abbreviations: what is unambiguous today is not when an option is added, and --part would be --particles.
    top = argparse.ArgumentParser(prog="tomoexport", allow_abbrev=False, epilog=EXIT_CODES, description=(
        "From aligned tilt series to tomograms and sub-tomograms. Every verb has its own --help."))
    top.add_argument("--version", action="version", version="tomoexport " + __version__)
    top.add_argument("--verbose", action="store_true", help="Say more in the log.")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for verb, cls in options.VERBS.items():
        one = verbs.add_parser(verb, help=cls.__doc__, description=cls.__doc__, allow_abbrev=False)
        options.add_arguments(one, cls)
        if issubclass(cls, options.TiltSeriesOptions):
            one.add_argument("--part", type=_part, metavar="I/N", help=PART)
    check = verbs.add_parser("check", help="Validate the inputs of a verb and print its plan; nothing is written.")
    kinds = check.add_subparsers(dest="checked", metavar="VERB")
    for verb, cls in options.VERBS.items():
        options.add_arguments(kinds.add_parser(verb, help=cls.__doc__, allow_abbrev=False), cls)
    verbs.add_parser("doctor", help="Show versions, the GPU and a self-test of the kernels.")
    run = verbs.add_parser("run", help="Carry out a job file, as the steps of the Scipion protocols do.")
    run.add_argument("job", help="JSON with verb, options and, optionally, series or part, and collect.")
    run.add_argument("--outcome", metavar="FILE", help="Write here, as JSON, what came of it: error, why it failed, or "
                     "collected, what the tables hold. A queue keeps what is printed elsewhere.")
    return top


def _part(text):
    """Two whole numbers of ``0/3``; which of them go together is checked with the job."""
    numbers = text.split("/")
    if len(numbers) != 2 or not all(n.strip().isdigit() and len(n) < 10 for n in numbers):
        raise argparse.ArgumentTypeError("'%s' is no part: give I/N, such as 0/3" % options.shorten(text))
    return [int(n) for n in numbers]


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process if left out.

    Returns
    -------
    int
        See `EXIT_CODES`.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read when NumPy is loaded; our own threads own a particle each
    with lasting.streams(), stopping.on_signals():
        return _main(arguments)


def _main(arguments):
    top = parser()
    given = top.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.DEBUG if given.verbose else logging.INFO,
                        format="%(message)s")
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        return _act(given, top)
    except TomoexportError as error:
        return _failed(given, str(error))
    except stopping.Terminated:
        print("stopped by SIGTERM; " + _KEPT, file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("stopped; " + _KEPT, file=sys.stderr)
        return 130
    except Exception as error:
        logging.getLogger(__name__).debug("unforeseen", exc_info=True)
        return _failed(given, "an unforeseen %s: %s. Please report it; --verbose has the place." % (
            type(error).__name__, error))


def _failed(given, reason):
    """Tell why nothing came of it, in a file as well if one is asked for."""
    print("error: %s" % reason, file=sys.stderr)
    _record(given, {"error": reason})
    return 2


def _record(given, outcome):
    """Write the file that tells what came of a job, if one is asked for."""
    if getattr(given, "outcome", None):
        try:
            write_json(given.outcome, outcome)
        except OSError as error:
            print("error: %s: %s." % (given.outcome, error.strerror or error), file=sys.stderr)


def _act(given, top):
    if given.verb is None:
        top.print_help()
        return 2
    if given.verb == "doctor":
        from .jobs import doctor
        lines, healthy = doctor.report()
        print("\n".join(lines))
        return 0 if healthy else 1
    from .jobs import runner
    if given.verb == "check":
        if given.checked is None:
            raise InputError("check", "no verb is given", "Use check " + ", check ".join(options.VERBS))
        values = options.given(given.checked, given)
        chosen = set(values) | ({"pixel_size", "box"} if values.get("species") else set())
        planned = runner.plan(given.checked, runner.read_options(given.checked, values), chosen=chosen)
        print("\n".join(planned.lines()))
        good = not any(p.severity == "error" for p in planned.problems) and not any(u.error for u in planned.units)
        return 0 if good else 2
    if given.verb == "run":
        job = _read_job(given.job)
    else:
        job = {"verb": given.verb, "options": options.given(given.verb, given)}
        if getattr(given, "part", None) is not None:
            job["part"] = given.part
    done = runner.run(job)
    _record(given, {"collected": done.get("collected"), "failed": done["failed"]})
    if done["failed"]:
        print("error: %d of %d tilt series failed: %s. The others are finished; results/ in the output folder has the "
              "reasons." % (len(done["failed"]), len(done["results"]), ", ".join(done["failed"])), file=sys.stderr)
    return 1 if done["failed"] else 0


def _read_job(path):
    """Read a job file and check the kinds of its entries; those of its options are checked with them."""
    try:
        with open_plain(path, "r", encoding="utf-8") as handle:
            job = json.load(handle)
    except OSError as error:
        raise InputError(path, error.strerror or "it cannot be read", "Check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(path, "it is no valid JSON (%s)" % error, "Correct the job file") from None
    if not isinstance(job, dict):
        raise InputError(path, "it holds no JSON object", "Give verb and options")
    series = job.get("series")
    if not (series is None or isinstance(series, list) and all(isinstance(name, str) for name in series)):
        raise InputError(path, "series is %s" % options.shorten(series), "Give a list of names of tilt series")
    if not isinstance(job.get("collect", False), bool):
        raise InputError(path, "collect is %s" % options.shorten(job["collect"]), "Give true or false")
    part = job.get("part")
    if not (part is None or isinstance(part, list) and len(part) == 2 and all(type(n) is int for n in part)):
        raise InputError(path, "part is %s" % options.shorten(part), "Give two whole numbers, such as [0, 3]")
    return job
