"""Every source of tilt series with every verb: no traceback, and what an error asks for can be given and works."""

import os
import re

import pytest

from tomoexport import cli
from tomoexport.tests.sources import SOURCES, described, relion5_tables

pytestmark = pytest.mark.slow

VERBS = ("reconstruct", "subtomo", "series", "pseudosubtomo", "particle", "duplicates", "intersect")
#: What a run is given that its errors may ask for: smaller boxes than the default, for images as small as these.
SMALL = {"--diameter": 100.0, "--box": 16, "--pixel-size": 8.0}


def command(verb, source, out):
    """The command line of a verb with default options."""
    words = [verb, "--tomograms", source.tomograms, "--output", str(out)]
    if verb == "intersect":
        return words + ["--old", source.particles, "--new", source.particles]
    return words if verb == "reconstruct" else words + ["--particles", source.particles]


def asked_for(text, known):
    """The first option that the lines with an error name, or offer to take instead, and that is not given yet."""
    for line in text.splitlines():
        if "cannot be used" in line or "error" in line or line.startswith("tomoexport"):
            for flag in re.findall(r"--[a-z0-9-]+", line.partition(". ")[2] or line):
                if flag in known:
                    return flag
    return None


def remedied(words, known, capsys, most=7):
    """Run a command and do what its errors say until it succeeds.

    Returns
    -------
    given : list of str
        Options that were asked for.
    text : str
        All that the last run said.
    """
    given, known = [], dict(known)
    while True:
        try:
            code = cli.main(words)
        except SystemExit as usage:  # an option that the verb does not have
            raise AssertionError("%s: %s" % (usage, "".join(capsys.readouterr()))) from None
        text = "".join(capsys.readouterr())
        assert "Traceback" not in text and "unforeseen" not in text, text
        if code == 0:
            return given, text
        if "Estimate the CTF and give RELION's tables" in text and "--tomograms" in known:
            flag = "--tomograms"
        else:
            flag = asked_for(text, known)
        assert flag and len(given) < most, "exit %s after %s:\n%s" % (code, given, text)
        value = known.pop(flag)
        # "true" is a switch, of which its name may be the negative.
        words = words + [flag] + ([] if value is True else [str(value)])
        given.append(flag)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_remedy_works(simulated, tmp_path, capsys, source, verb):
    here, out, tables = described(source, simulated("tiny"), tmp_path / "project"), tmp_path / "out", {}
    if source.startswith("imod"):  # what a program knows that estimates the CTF
        tables = {"--tomograms": relion5_tables(simulated("tiny"), tmp_path / "tables").tomograms}
    given, text = remedied(command(verb, here, out), dict(SMALL, **here.truth, **tables), capsys)
    assert any(name.endswith((".star", ".mrc")) for _, _, names in os.walk(str(out)) for name in names), text
    # Nothing is asked for that the files say.
    if source in ("relion5_tables", "relion5_matrices", "relion4_tables", "warptools_tables", "warp_xml"):
        assert set(given) <= set(SMALL), (given, text)
    if verb in ("duplicates", "intersect"):
        assert set(given) <= {"--allow-loss"}, given  # sizes are of no use for distances
