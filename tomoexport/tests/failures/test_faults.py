"""A sample of what `make test-faults` tries: faults at file operations of every verb (F27 to F29), damaged inputs."""
import json
import subprocess
import sys

import pytest

from tomoexport import options
from tomoexport.tests.failures import faults

pytestmark = pytest.mark.slow


def test_every_verb_is_attacked():
    assert set(faults.CASES) == set(options.VERBS)


def found(*words):
    """What a command of this folder prints."""
    ended = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True,
                           timeout=1500)
    assert ended.returncode in (0, 1), ended.stderr
    return json.loads(ended.stdout)


def test_a_sample_of_faults_at_every_verb():
    out = found("tomoexport.tests.failures.faults", "--sample", "5", "--seed", "3")
    assert out["faults"] == []
    for verb, counts in out["operations"].items():
        assert min(counts.values()) > 30, verb  # they are seen
        for situation in ("fresh", "redo"):
            assert {"%s, %s, %s" % (verb, situation, kind) for kind in faults.KINDS} <= set(out["points"])
    assert set(out["operations"]) == set(options.VERBS)


def test_a_sample_of_damaged_inputs():
    out = found("tomoexport.tests.failures.mutations", "--count", "200", "--seed", "11")
    assert out["faults"] == [] and sum(out["tried"].values()) == 200
    assert {name.partition(" of ")[0] for name in out["tried"]} >= {".star", ".xml", ".mrcs", ".xf", ".tlt", ".json"}


def test_a_run_that_would_lie_is_found(tmp_path):
    """The look at tables sees one of another run, and one whose volumes are of two."""
    for name, text in (("particles.star", "subtomo/1.mrc subtomo/2.mrc"), ("subtomo/1.mrc", "new"),
                       ("subtomo/2.mrc", "new")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    new = faults.snapshot(str(tmp_path))
    (tmp_path / "subtomo" / "2.mrc").write_text("old")
    mixed = faults.snapshot(str(tmp_path))
    (tmp_path / "subtomo" / "1.mrc").write_text("old")
    (tmp_path / "particles.star").write_text("subtomo/1.mrc subtomo/2.mrc of the old")
    old = faults.snapshot(str(tmp_path))
    assert not faults.lies(str(tmp_path), old, [new, old])
    assert faults.lies(str(tmp_path), dict(new, **{"particles.star": old["particles.star"]}), [new, old])
    (tmp_path / "particles.star").write_text("subtomo/1.mrc subtomo/2.mrc")
    assert not faults.lies(str(tmp_path), new, [new, old]) and faults.lies(str(tmp_path), mixed, [new, old])
