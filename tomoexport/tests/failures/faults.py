"""Faults at the file operations of a command: every verb must pass them all.

    python -m tomoexport.tests.failures.faults [VERB ...] [--sample N] [--seed N] [--kinds KIND ...]

A verb is run with a fault at one of its operations on files below its output folder, in a process of its own, once in a
fresh folder and once over the results of other options. Then it is looked at what was left: no table names files of two
runs; nothing temporary is there that an orderly end should have removed; and the same command, run again, gives every
byte of a run that nothing disturbed, and leaves nothing temporary. Without --sample all operations are tried.
Prints JSON: points tried per verb, situation and kind, and the faults that were found.
"""
import argparse
import builtins
import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

#: kill: before the operation. half: after half of what is written, or after an operation that writes nothing. enospc:
#: from then on the disk is full. eio: this operation fails. term: SIGTERM comes just before it.
KINDS = ("kill", "half", "enospc", "eio", "term")
COMMON = ["--device", "cpu", "--threads", "2"]
BOX = ["--pixel-size", "16", "--box", "16", "--diameter", "140"]
#: Per verb: the options, and those of another run whose files have the same names and other contents.
CASES = {
    "simulate": (["--preset", "tiny"], ["--seed", "7"]),
    "reconstruct": (["--pixel-size", "16", "--halves", "--deconvolve"], ["--no-invert"]),
    "subtomo": (BOX, ["--no-invert"]),
    "series": (BOX, ["--no-invert"]),
    "pseudosubtomo": (["--binning", "2", "--box", "16", "--no-stack2d"], ["--no-ctf"]),
    "particle": (["--binning", "2", "--box", "16"], ["--no-ctf"]),
    "average": ([], ["--diameter", "100"]),
    "duplicates": (["--distance", "10"], ["--distance", "300"]),
    "intersect": (["--tolerance", "10"], ["--only-old"]),
    "select": ([], ["--exclude"]),
}
TABLES = (".star", ".csv", "map.json", "average.mrc", "half1.mrc", "half2.mrc")


class Disk:
    """The operations of this process on files below a folder, counted, with a fault at one of them."""

    def __init__(self, folder, point=None, kind=None):
        self.folder, self.point, self.kind = os.path.realpath(folder), point, kind
        self.hit = ""  # the operation that the fault met
        self.count, self.full, self._lock, self._inside = 0, False, threading.RLock(), threading.local()
        self._write, self._real = os.write, {}

    def install(self):
        """Put the counting versions in place of those of `os` and `open`."""
        for name in ("replace", "unlink", "remove", "mkdir", "fsync", "pwrite", "write", "rename"):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name))
        self._real["open"] = builtins.open
        self._real["os.open"] = os.open
        builtins.open = io.open = self._open
        os.open = self._os_open
        return self

    def _below(self, target):
        if isinstance(target, int):
            try:
                target = os.readlink("/proc/self/fd/%d" % target)
            except OSError:
                return False
        path = os.path.realpath(os.path.dirname(os.fspath(target)))
        return path == self.folder or path.startswith(self.folder + os.sep)

    def _step(self, name, writes):
        """Count an operation; says what is to happen to it: '', 'half', or an error is raised."""
        with self._lock:
            number, self.count = self.count, self.count + 1
            if self.full and writes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if number != self.point:
                return ""
            self.hit = name
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.kind == "eio":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if self.kind == "enospc":
                self.full = True
                if writes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return "half" if self.kind == "half" else ""

    def _wrapped(self, name):
        real = getattr(os, name)
        writes = name in ("mkdir", "pwrite", "write")

        def call(target, *more, **named):
            if not self._below(target):
                return real(target, *more, **named)
            what = self._step(name, writes)
            if what and name in ("pwrite", "write"):
                data = memoryview(more[0]).cast("B")
                real(target, data[:len(data) // 2], *more[1:])
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(target, *more, **named)
            if what:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call

    def _os_open(self, path, flags, *more, **named):
        if flags & os.O_CREAT and self._below(path):
            self._step("open", True)
        return self._real["os.open"](path, flags, *more, **named)

    def _open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if isinstance(file, int) or not set(mode) & set("wax") or not self._below(file):
            return self._real["open"](file, mode, buffering, encoding, errors, newline, closefd, opener)
        self._step("open", True)
        raw = _File(self, file, mode.replace("b", "").replace("t", ""))
        if "b" in mode:
            return raw if buffering == 0 else (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, newline)


class _File(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, disk, name, mode):
        self._disk = disk
        super().__init__(name, mode)

    def write(self, data):
        what = self._disk._step("write", True)
        if what:
            super().write(memoryview(data).cast("B")[:len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


def command(arguments, log, folder=None, point=None, kind=None, limit=(120, None)):
    """Run the command line in a process of its own.

    Parameters
    ----------
    arguments : list of str
    log : str
        File for what it says.
    folder : str, optional
        Below which its file operations are counted.
    point, kind
        Which of them meets which fault.
    limit : (float, int or None)
        Seconds, and bytes of memory that it may take beyond what this process has.

    Returns
    -------
    status : int
        Exit code, or minus the signal that ended it.
    text : str
        What it said.
    count : int
        Operations on files below the folder; 0 if it was killed.
    hit : str
        The operation that the fault met.
    """
    sys.stdout.flush()
    number = log + ".count"
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            from tomoexport import cli
            if limit[1]:
                with open("/proc/self/statm") as handle:
                    has = int(handle.read().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (has + limit[1], has + limit[1]))
            disk = Disk(folder, point, kind).install() if folder else None
            status = cli.main(arguments)
            if disk:
                with disk._real["open"](number, "w") as handle:
                    handle.write("%d %s" % (disk.count, disk.hit))
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = _wait(pid, limit[0])
    with open(log, errors="replace") as handle:
        text = handle.read()
    count, hit = 0, ""
    if os.path.exists(number):
        with open(number) as handle:
            count, hit = handle.read().split(" ")
        os.unlink(number)
    return status, text, int(count), hit


def _wait(pid, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise RuntimeError("the command did not end in %d s" % seconds)


def snapshot(folder):
    """All files below a folder: name to hash of their bytes.

    Locks are left out, and of records of runs what they say about the run itself: that something was kept.
    """
    out = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.name.endswith(".lock"):
            data, name = path.read_bytes(), str(path.relative_to(folder))
            if name.startswith(("results", ".tomoexport")) and path.suffix == ".json":
                record = json.loads(data.decode())
                if isinstance(record, dict):
                    record.pop("notes", None)
                    record.get("outputs", {}).pop("results/" + path.name, None)
                data = json.dumps(record, sort_keys=True).encode()
            out[name] = hashlib.sha256(data).hexdigest()
    return out


def temporary(names):
    """Names of temporary files, and of the records of processes that have some."""
    return sorted(name for name in names if ".tmp-" in name or "temporary-" in name)


def is_table(name):
    """Whether a file is one that names others, or stands for a whole run."""
    folder, base = os.path.split(name)
    return folder in ("", "tilt_series") and base.endswith(TABLES)


def lies(folder, found, runs):
    """How tables contradict what lies beside them.

    Parameters
    ----------
    folder : str
    found : dict
        Its `snapshot`.
    runs : list of dict
        Of the runs that wrote here, undisturbed; the first one is that which was disturbed.

    Returns
    -------
    list of str
        Empty if there is a run of which all tables are, and all data that they name.
    """
    tables = [name for name in found if is_table(name)]
    text = b"".join(Path(folder, name).read_bytes() for name in tables)
    named = [name for name in set().union(*runs) if is_data(name) and name.encode() in text]
    for run in runs:
        # Where a tilt series failed, tables of the disturbed run are of the others alone.
        of_run = all(found[name] == run.get(name) for name in tables) or run is runs[0] and not any(
            found[name] == other.get(name) != run.get(name) for other in runs[1:] for name in tables)
        if of_run and all(found.get(name) == run.get(name) for name in named):
            return []
    return ["%s beside files of another run, or without them" % ", ".join(tables)]


def is_data(name):
    """Whether tables may name a file."""
    return not is_table(name) and name.endswith((".mrc", ".mrcs")) and not name.startswith("report")


class Verb:
    """A verb in a folder of its own, with what it reads."""

    def __init__(self, verb, inputs, root):
        self.verb, self.root, self.out = verb, str(root), os.path.join(str(root), "out")
        words, other = CASES[verb]
        self.words = {"first": [verb, *words, *inputs, "--output", self.out]}
        self.words["other"] = self.words["first"] + other
        self.saved = {}

    def run(self, which, folder=None, point=None, kind=None):
        """Run it; see `command`."""
        return command(self.words[which], os.path.join(self.root, "log"), folder, point, kind)

    def clean(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def prepare(self):
        """Run it undisturbed, in all ways; returns the number of operations in a fresh folder and over another run."""
        counts, self.reference = {}, {}
        for which in ("other", "first"):
            self.clean()
            self._good(self.run(which))
            self.reference[which] = snapshot(self.out)
            if which == "other":
                shutil.copytree(self.out, self.out + ".other")
        self.clean()
        counts["fresh"] = self._good(self.run("first", self.out))[2]
        self._restore()
        counts["redo"] = self._good(self.run("first", self.out))[2]
        self.reference["redo"] = snapshot(self.out)
        differing = [name for name in self.reference["first"] if is_data(name) or is_table(name)]
        assert any(self.reference["first"][name] != self.reference["other"].get(name) for name in differing), (
            "the two runs of %s do not differ" % self.verb)
        return counts

    def _restore(self):
        self.clean()
        shutil.copytree(self.out + ".other", self.out)

    @staticmethod
    def _good(ended):
        assert ended[0] == 0, ended[1]
        return ended

    def attack(self, situation, point, kind):
        """Run it with one fault, and again without; returns what was wrong."""
        self.clean()
        runs = [self.reference["first"]]
        if situation == "redo":
            self._restore()
            runs.append(self.reference["other"])
        status, text, _, hit = self.run("first", self.out, point, kind)
        wrong, found = [], snapshot(self.out) if os.path.isdir(self.out) else {}
        if kind in ("kill", "half"):
            expected = (-signal.SIGKILL, 0)  # fewer operations this time
        else:
            expected = (143, 0) if kind == "term" else (0, 1, 2)
            # A disk that does not remove a file keeps it until the next run.
            if temporary(found) and not (kind == "eio" and hit in ("unlink", "remove")):
                wrong.append("temporary files after an orderly end: %s" % ", ".join(temporary(found)))
        if status not in expected:
            wrong.append("it ended with %d: %s" % (status, text[-300:]))
        if "Traceback" in text or "unforeseen" in text:
            wrong.append("it failed without knowing why: %s" % text[-300:])
        if kind in ("eio", "enospc") and status and not re.search(
                r"error: .*(No space|Input/output)|failed: ", text):
            wrong.append("it does not say why it failed: %s" % text[-300:])
        wrong += lies(self.out, found, runs)
        status, text, *_ = self.run("first")
        if status:
            wrong.append("it does not go on: %d, %s" % (status, text[-300:]))
        found, right = snapshot(self.out), self.reference["first" if situation == "fresh" else "redo"]
        if temporary(found):
            wrong.append("temporary files for ever: %s" % ", ".join(temporary(found)))
        differing = sorted(name for name in set(found) | set(right) if found.get(name) != right.get(name)
                           and name not in temporary(found))
        if differing:
            wrong.append("another result than undisturbed: %s" % ", ".join(differing[:6]))
        return ["%s, %s, %s at operation %d: %s" % (self.verb, situation, kind, point, one) for one in wrong]


def make_inputs(root):
    """What the verbs read; returns the options of each that name it."""
    from tomoexport import cli

    def run(*words):  # in this process: those that are forked find libraries and compiled kernels in memory
        with open(os.path.join(root, "log"), "w") as log, contextlib.redirect_stdout(log):
            assert cli.main([*words]) == 0, words

    data = os.path.join(root, "data")
    run("simulate", "--preset", "tiny", "--output", data)
    tables = ["--tomograms", os.path.join(data, "tomograms.star"), "--particles", os.path.join(data, "particles.star")]
    made = {verb: os.path.join(root, "made", verb) for verb in ("subtomo", "series")}
    for verb, folder in made.items():
        run(verb, *tables, *BOX, *COMMON, "--output", folder)
    kept, some = os.path.join(root, "kept.pkl"), os.path.join(root, "some.star")
    with open(kept, "wb") as handle:
        pickle.dump([0, 2, 5], handle)
    with open(tables[3]) as handle:
        lines = handle.read().rstrip().splitlines()
    with open(some, "w") as handle:
        handle.write("\n".join(lines[:-2]) + "\n")
    inputs = dict.fromkeys(("subtomo", "series", "pseudosubtomo", "particle"), tables + COMMON)
    inputs.update(
        simulate=[], reconstruct=tables[:2] + COMMON,
        average=["--particles", os.path.join(made["subtomo"], "particles.star"), "--threads", "2"],
        duplicates=tables, intersect=tables[:2] + ["--old", tables[3], "--new", some],
        select=[*tables, "--exported", os.path.join(made["series"], "particles.star"), "--kept", kept])
    return inputs


def attack_all(verbs, sample=None, seed=0, kinds=KINDS, say=lambda text: None):
    """Try faults at operations of verbs.

    Parameters
    ----------
    verbs : iterable of str
    sample : int, optional
        Faults per verb and situation; by default all operations with all kinds.
    seed : int
    kinds : sequence of str
        Of `KINDS`.
    say : callable
        Told a line per verb.

    Returns
    -------
    dict
        ``points``: number per verb, situation and kind; ``operations``: number per verb and situation; ``faults``.
    """
    from tomoexport import cli
    from tomoexport.jobs import report
    out = {"points": {}, "operations": {}, "faults": []}
    report._drawn = lambda figure: b"a picture" * 500  # their files are written all the same
    with tempfile.TemporaryDirectory() as root:
        inputs = make_inputs(root)
        for verb in verbs:
            folder = os.path.join(root, verb)
            os.makedirs(folder)
            with open(os.path.join(root, "log"), "w") as log, contextlib.redirect_stdout(log):
                warm = [verb, *CASES[verb][0], *inputs[verb], "--output", os.path.join(folder, "warm")]
                assert cli.main(warm) == 0, verb
            one, rng = Verb(verb, inputs[verb], folder), random.Random("%d %s" % (seed, verb))
            out["operations"][verb] = counts = one.prepare()
            for situation, count in counts.items():
                todo = [(point, kind) for point in range(count) for kind in kinds]
                if sample is not None:
                    # As many of each kind, spread over all operations.
                    todo = [(int((i + rng.random()) * count / sample), kinds[(i + seed) % len(kinds)])
                            for i in range(sample)]
                for point, kind in todo:
                    key = "%s, %s, %s" % (verb, situation, kind)
                    out["points"][key] = out["points"].get(key, 0) + 1
                    out["faults"] += one.attack(situation, point, kind)
                say("%s, %s: %d operations, %d faults tried, %d wrong so far" % (
                    verb, situation, count, len(todo), len(out["faults"])))
            shutil.rmtree(folder)
    return out


def main():
    """Run it as a command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verbs", nargs="*", choices=[*CASES, []], help="all by default")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    found = attack_all(given.verbs or CASES, given.sample, given.seed, tuple(given.kinds),
                       lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=1))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
