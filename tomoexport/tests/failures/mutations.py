"""Damaged inputs: every kind of file that is read, damaged at random in many ways.

    python -m tomoexport.tests.failures.mutations [--count N] [--seed N] [--only N] [--keep]

A mutation passes if the command ends by itself in time, within a limit of memory, with one of its exit codes, says why
in a line if that is not 0, and neither fails in an unforeseen way nor touches anything outside its output folder.
Every mutation follows from its number and the seed. Prints JSON: numbers per kind of file, and what was wrong.
"""
import argparse
import contextlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tomoexport.tests.failures.faults import BOX, COMMON, command

SECONDS, MEMORY = 30, 3 << 30  # per command; memory beyond what the process has at its start

NUMBERS = ("1e300", "-1e300", "1e-300", "nan", "inf", "-inf", "-1", "0", "-0.0", "720", "1e19", "99999999999999999999",
           "1e15", "0x10", "1,5", "1e", "--", "", "1-9999999999", "'", '"', "_rlnX", "loop_", "data_", "é", "\x00", "#",
           "1/0", "<", "&", "None", "1e5", "-1e5", "2147483648", "-2147483649", "0@x", "000000@", "1e-5")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


def _number(rng, data):
    """Another number in place of one."""
    text = data.decode("latin-1")
    found = list(_NUMBER.finditer(text))
    if not found:
        return data + b"1e300"
    for one in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2, 5)))), key=lambda m: -m.start()):
        text = text[:one.start()] + rng.choice(NUMBERS) + text[one.end():]
    return text.encode("latin-1", "replace")


def _bytes(rng, data):
    """Some other bytes."""
    out = bytearray(data or b"x")
    for _ in range(rng.choice((1, 3, 30))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _cut(rng, data):
    """The end is missing."""
    return data[:rng.randrange(len(data) + 1)]


def _hole(rng, data):
    """A piece is missing."""
    a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:a] + data[min(b, a + rng.choice((1, 10, 1000))):]


def _twice(rng, data):
    """A line, or many, are there twice."""
    lines = data.split(b"\n")
    n = rng.randrange(len(lines))
    return b"\n".join(lines[:n] + lines[n:n + rng.choice((1, 3, 50))] + lines[n:])


def _lines(rng, data):
    """Lines in another order."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def _word(rng, data):
    """A word is replaced by another of the file."""
    words = list(re.finditer(rb"[^\s<>=\"']+", data))
    if not words:
        return b"loop_"
    one, other = rng.choice(words), rng.choice(words)
    return data[:one.start()] + other.group() + data[one.end():]


def _long(rng, data):
    """A very long line, or very many words in it."""
    where = rng.randrange(len(data) + 1)
    return data[:where] + rng.choice((b"x" * 200000, b" 1" * 100000, b" _rlnX" * 60000, b"<a>" * 50000, b"[" * 100000,
                                      b"\n_rlnY" * 60000)) + data[where:]


def _empty(rng, data):
    """Nothing, or nothing of use."""
    return rng.choice((b"", b"\n", b" ", b"\x00" * 5000, b"\xff\xfe" + data.decode("latin-1").encode("utf-16-le"),
                       bytes(rng.randrange(256) for _ in range(3000)), b"\xef\xbb\xbf" + data,
                       data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"),
                       b'<?xml version="1.0" encoding="x-no"?>' + data,
                       b"data_\n\nloop_\n", b"null", b"[]", b"{}", b'"x"', b"0"))


CHANGES = (_number, _number, _number, _number, _bytes, _cut, _hole, _twice, _lines, _word, _word, _long, _empty)


def spoil(rng, path):
    """Damage a file; returns what was done."""
    what = rng.random()
    if what < 0.02:
        os.unlink(path)
        os.mkfifo(path)
        return "a named pipe in its place"
    if what < 0.03:
        os.unlink(path)
        os.mkdir(path)
        return "a folder in its place"
    if what < 0.04:
        os.unlink(path)
        os.symlink(os.path.basename(path), path)
        return "a link to itself in its place"
    data = Path(path).read_bytes()
    change = rng.choice(CHANGES)
    if os.path.getsize(path) > 200000 or path.endswith((".mrc", ".mrcs", ".st")):
        # What matters is the header; pixels may be anything.
        head = bytearray(data[:1024])
        if rng.random() < 0.3:
            return _set(path, data[:rng.choice((0, 10, 1023, 1024, 1500, len(data) - 1))], "cut off")
        for _ in range(rng.choice((1, 2, 4))):
            place = 4 * rng.randrange(0, 56)
            head[place:place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00",
                                                b"\x00\x00\xc0\x7f", bytes(rng.randrange(256) for _ in range(4))))
        return _set(path, bytes(head) + data[1024:], "other numbers in the header")
    return _set(path, change(rng, data), change.__doc__)


def _set(path, data, what):
    Path(path).write_bytes(data)
    return what


class Setting:
    """A folder of inputs, the files that may be damaged, and the commands that read them."""

    def __init__(self, name, root, files, commands):
        self.name, self.root, self.files, self.commands = name, Path(root), sorted(files), commands


def settings(root):
    """Make all inputs; returns a list of `Setting`."""
    from tomoexport import cli
    from tomoexport.tests.sources import SOURCES, described
    root, out = Path(root), []

    def run(*words):
        with open(str(root / "log"), "w") as log, contextlib.redirect_stdout(log):
            assert cli.main([*words]) == 0, words

    data = root / "data"
    run("simulate", "--preset", "tiny", "--output", str(data))
    verbs = {"subtomo": BOX, "series": BOX, "pseudosubtomo": ["--binning", "2", "--box", "16"],
             "particle": ["--binning", "2", "--box", "16"], "reconstruct": ["--pixel-size", "16", "--ctf", "none"]}
    for name in SOURCES:
        folder = root / name
        found = described(name, data, folder)
        tables = ["--tomograms", found.tomograms, "--particles", found.particles]
        commands = [[verb, *words, *(tables if verb != "reconstruct" else tables[:2]), *COMMON]
                    for verb, words in verbs.items()]
        if "--tomogram-size" in found.truth:
            commands = [words + ["--tomogram-size", found.truth["--tomogram-size"]] for words in commands]
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".png", ".json", ".mrc")
                 and ".tomoexport" not in path.parts]
        out.append(Setting(name, folder, files, commands))
    for verb in ("subtomo", "series", "pseudosubtomo", "reconstruct"):  # what an earlier run left, and who reads it
        folder = root / ("over " + verb)
        shutil.copytree(str(data), str(folder))
        tables = ["--tomograms", str(folder / "tomograms.star"), "--particles", str(folder / "particles.star")]
        words = [verb, *verbs[verb], *(tables if verb != "reconstruct" else tables[:2]), *COMMON]
        run(*words, "--output", str(folder / "out"))
        own = [path for path in (folder / "out").rglob("*") if path.is_file() and path.suffix in (".json", ".star")]
        out.append(Setting("own files of " + verb, folder, own, [words]))
        if verb == "subtomo":
            files = [folder / "out" / "particles.star", *sorted((folder / "out" / "subtomo").rglob("*.mrc"))[:4]]
            out.append(Setting("average", folder, files, [
                ["average", "--particles", str(files[0])], ["duplicates", *tables[:2], "--particles", str(files[0])],
                ["intersect", *tables[:2], "--old", str(files[0]), "--new", tables[3]]]))
    job = root / "job"
    shutil.copytree(str(data), str(job))
    (job / "job.json").write_text(json.dumps({"verb": "subtomo", "options": {
        "tomograms": str(job / "tomograms.star"), "particles": str(job / "particles.star"), "pixel_size": 16, "box": 16,
        "diameter": 140, "output": str(job / "out"), "threads": 2}, "series": ["TS_01"]}))
    out.append(Setting("job", job, [job / "job.json"], [["run", str(job / "job.json")]]))
    return out


def attempt(number, seed, all_settings, root):
    """Try one mutation; returns the kind of file, and what was wrong."""
    rng = random.Random("%d %d" % (seed, number))
    one = all_settings[number % len(all_settings)]
    saved = str(one.root) + ".saved"
    shutil.copytree(str(one.root), saved)
    try:
        kinds = sorted({path.suffix for path in one.files})
        kind = rng.choice(kinds)  # not as many of each as there are files
        path = rng.choice([path for path in one.files if path.suffix == kind])
        what = spoil(rng, str(path))
        words = list(rng.choice(one.commands))
        # A damaged record lies where the run writes; other runs write elsewhere.
        target = str(one.root / "out")
        words += [] if words[0] == "run" else ["--output", target]
        before = _outside(one.root, target, root)
        wrong = []
        for start in ([["check"]] if words[0] != "run" and rng.random() < 0.3 else [[]]):
            began = time.monotonic()
            try:
                status, text, *_ = command(start + words, os.path.join(root, "log"), limit=(SECONDS, MEMORY))
            except RuntimeError as error:
                wrong.append(str(error))
                continue
            if status not in (0, 1, 2):
                wrong.append("it ended with %d after %.1f s: %s" % (status, time.monotonic() - began, text[-400:]))
            if "Traceback" in text or "unforeseen" in text:
                wrong.append("it failed without knowing why: %s" % text[-800:])
            elif status in (1, 2) and not any(len(line) > 10 for line in text.splitlines()):
                wrong.append("it does not say why it failed: %r" % text[-200:])
            elif max(map(len, text.splitlines() or [""])) > 5000:
                wrong.append("it says it in %d characters" % max(map(len, text.splitlines())))
        if _outside(one.root, target, root) != before:
            wrong.append("something outside of its output folder has changed")
        return "%s of %s" % (kind, one.name), ["%s: %s of %s, %s (number %d, seed %d): %s" % (
            " ".join(words[:1]), what, path.relative_to(root), one.name, number, seed, text) for text in wrong]
    finally:
        shutil.rmtree(str(one.root))
        os.rename(saved, str(one.root))


def _outside(folder, target, root):
    """State of all inputs."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
            if not str(path).startswith(target) and not path.is_dir()}


def attempt_all(count, seed=0, only=None):
    """Try so many mutations.

    Returns
    -------
    dict
        ``tried``: number per kind of file; ``slowest`` in seconds; ``faults``.
    """
    out = {"tried": {}, "faults": []}
    with tempfile.TemporaryDirectory() as root:
        made = settings(root)
        for number in range(count) if only is None else [only]:
            kind, wrong = attempt(number, seed, made, root)
            out["tried"][kind] = out["tried"].get(kind, 0) + 1
            out["faults"] += wrong
            for one in wrong:
                print(one, file=sys.stderr, flush=True)
    return out


def main():
    """Run it as a command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    found = attempt_all(given.count, given.seed, given.only)
    print(json.dumps(found, indent=1))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
