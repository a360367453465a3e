"""A data set that may be spoilt, and what it means that an operation refuses it."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tomoexport import cli
from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.jobs import report, runner

#: Small enough to take a moment.
SUBTOMO = dict(pixel_size=16.0, box=16, diameter=140.0, device="cpu", threads=2)
RECONSTRUCT = dict(pixel_size=16.0, device="cpu", threads=2)


class Project:
    """The preset 'tiny' (TS_01 and TS_02 of 3 tilts, 4 particles each) in a folder of its own."""

    def __init__(self, root, capsys, monkeypatch):
        self.root, self.capsys, self.monkeypatch = Path(root), capsys, monkeypatch
        self.tomograms, self.particles = str(self.root / "tomograms.star"), str(self.root / "particles.star")
        self.out = str(self.root / "out")

    def stack(self, ts_id="TS_01"):
        """Path of the images of a tilt series."""
        return str(self.root / "tiltseries" / (ts_id + ".mrcs"))

    def tilts(self, ts_id="TS_01"):
        """Path of the table of a tilt series."""
        return str(self.root / "tilt_series" / (ts_id + ".star"))

    def edit(self, path, change):
        """Let ``change`` alter the columns of the only table of a file, a dict of label to list of str."""
        table, = star.read(path)
        columns = {name: table.text(name) for name in table.columns}
        change(columns)
        star.write(path, [star.Table.from_columns(table.name, columns)])

    def put(self, path, column, row, value):
        """Change one value of a table."""
        self.edit(path, lambda columns: columns[column].__setitem__(row, value))

    def drop(self, path, *names):
        """Remove columns from a table."""
        self.edit(path, lambda columns: [columns.pop(name) for name in names])

    def rename(self, ts_id, name):
        """Give a tilt series another name, in all tables."""
        def change(columns):
            columns["rlnTomoName"] = [name if n == ts_id else n for n in columns["rlnTomoName"]]
        self.edit(self.tomograms, change)
        self.edit(self.particles, change)

    def pixels(self, change, ts_id="TS_01"):
        """Let ``change`` alter the images `(T, h, w)` in place; the file is written as anybody may write it."""
        with open(self.stack(ts_id), "r+b") as handle:
            images = np.memmap(handle, np.float32, "r+", 1024, mrc.read_header(self.stack(ts_id)).shape)
            change(images)
            images.flush()

    def job(self, verb, **values):
        """A job of a verb on this data set."""
        options = {"simulate": dict(preset="tiny"), "reconstruct": dict(RECONSTRUCT, tomograms=self.tomograms),
                   "subtomo": dict(SUBTOMO, tomograms=self.tomograms, particles=self.particles),
                   "average": dict(particles=os.path.join(self.out, "particles.star"))}[verb]
        return {"verb": verb, "options": dict(dict(options, output=self.out), **values)}

    def run(self, verb, **values):
        """Run a verb; returns what the runner does."""
        return runner.run(self.job(verb, **values))

    def results(self, verb, **values):
        """Run a verb; returns the results as a dict by name of the tilt series."""
        return {r["ts_id"]: r for r in self.run(verb, **values)["results"]}

    def cli(self, *words, **values):
        """Run the command line with the options of the last word, a verb; returns exit code and all its text."""
        options = self.job(words[-1], **values)["options"]
        flags = []
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            flags += [flag if value else "--no-" + flag[2:]] if isinstance(value, bool) else ["%s=%s" % (flag, value)]
        code = cli.main(list(words) + flags)
        return code, "".join(self.capsys.readouterr())

    def check(self, verb, **values):
        """Run ``check``; returns exit code and text, having seen that it writes nothing."""
        before = contents(self.root)
        answer = self.cli("check", verb, **values)
        assert contents(self.root) == before
        return answer

    def refused(self, verb, *words, **values):
        """See that a verb is refused while it is planned, with a message that holds ``words``; returns the message."""
        def execute(*arguments):
            raise AssertionError("long work was begun")
        self.monkeypatch.setattr(runner.verb_module(verb), "execute", execute)
        before = contents(self.root)
        for command in (["check", verb], [verb]):
            code, text = self.cli(*command, **values)
            assert code == 2, text
            assert_told(text, words)
        with pytest.raises(InputError) as error:
            self.run(verb, **values)
        assert_told(str(error.value), words)
        assert error.value.item and error.value.cause
        assert contents(self.root) == before
        return str(error.value)

    def alone(self, verb, ts_id, *words, planned=True, **values):
        """See that one tilt series fails with a message that holds ``words``, and the other goes on.

        ``planned``: the message comes already from ``check``.
        """
        code, text = self.check(verb, **values)
        assert code == (2 if planned else 0), text
        if planned:
            assert_told(text, ("%s: cannot be used" % ts_id,) + words)
        code, text = self.cli(verb, **values)
        assert code == 1, text
        for name in ("TS_01", "TS_02"):
            result = runner._load(runner.result_path(runner.options_module.from_dict(
                verb, self.job(verb, **values)["options"]), name))
            assert result["status"] == ("failed" if name == ts_id else "done")
            if name == ts_id:
                assert_told(result["error"], words + (ts_id,))
                assert "files" not in result
            else:
                assert result["files"] and all(os.path.getsize(path) > 1024 for path in result["files"])


def assert_told(text, words):
    """See that all words are in a text."""
    for word in words:
        assert word in text, "'%s' is not in: %s" % (word, text)


def contents(folder):
    """All files of a folder with size and time of the last change."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in Path(folder).rglob("*")}


def whole(folder):
    """See that every MRC and STAR file below a folder can be read, and that no temporary one is left; their number."""
    count = 0
    for path in Path(folder).rglob("*"):
        assert ".tmp-" not in path.name
        if path.suffix in (".mrc", ".mrcs"):
            mrc.read_volume(str(path))
            count += 1
        elif path.suffix == ".star":
            star.read(str(path))
            count += 1
    return count


@pytest.fixture(scope="session")
def clean(tmp_path_factory, simulated):
    """The data set, made once."""
    folder = tmp_path_factory.mktemp("simulated")
    simulated("tiny", into=folder, seed=1)
    return folder


@pytest.fixture
def figures():
    """Asked for by tests that need real figures."""


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Leave the figures out, which take most of the time, where a test does not ask for them."""
    if "figures" not in request.fixturenames:
        for name in ("subtomo_montage", "particles_per_tomogram", "tilts_per_particle", "tomogram_slices", "fsc_curve"):
            monkeypatch.setattr(report, name, lambda *arguments, **options: None)


@pytest.fixture
def copy(clean, capsys, monkeypatch):
    """Copy the data set to a folder."""
    def make(root):
        shutil.copytree(str(clean), str(root), ignore=shutil.ignore_patterns(".tomoexport", "results"))
        return Project(root, capsys, monkeypatch)
    return make


@pytest.fixture
def project(copy, tmp_path):
    """A copy of the data set."""
    return copy(tmp_path / "project")
