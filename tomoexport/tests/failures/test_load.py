"""Many particles, many tilt series, large images: bounded memory, linear time (F26); a bare computer (F39)."""
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from tomoexport import options
from tomoexport.io import mrc, particlestar
from tomoexport.jobs import runner
from tomoexport.tests.failures import faults
from tomoexport.tests.sources import SOURCES, described, rewrite

pytestmark = pytest.mark.slow

ROW = 1000  # bytes of memory per particle and table, with the sixteen columns of a refinement (docs/reliability.md)
COLUMNS = ("rlnTomoName", "rlnTomoParticleName", "rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst",
           "rlnCenteredCoordinateZAngst", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset",
           "rlnClassNumber", "rlnMaxValueProbDistribution", "rlnLogLikeliContribution", "rlnOriginXAngst",
           "rlnOriginYAngst", "rlnOriginZAngst", "rlnNrOfSignificantSamples")


def write_many(path, count, series):
    """A table of so many particles in so many tilt series, a tilt series after the other."""
    rng = random.Random(count)
    with open(str(path), "w") as file:
        file.write("data_particles\n\nloop_\n" + "".join("_%s #%d\n" % (c, i + 1) for i, c in enumerate(COLUMNS)))
        for i in range(count):
            name = "TS_%03d" % (i * series // count)
            file.write("%s %s/%d %.4f %.4f %.4f %.3f %.3f %.3f %d 1 %.6f %.4f 0.000000 0.000000 0.000000 %d\n" % (
                name, name, i + 1, rng.uniform(-180, 180), rng.uniform(-180, 180), rng.uniform(-90, 90),
                rng.uniform(-180, 180), rng.uniform(0, 180), rng.uniform(-180, 180), 1 + i % 2, rng.random(),
                rng.uniform(1e4, 1e6), rng.randrange(200)))


@pytest.fixture(scope="module")
def many(simulated, tmp_path_factory):
    """A project of twenty tilt series, and tables of 5000 and 35 000 particles in them."""
    folder = simulated("tiny", into=tmp_path_factory.mktemp("many"))

    def change(columns):
        for name, values in columns.items():
            columns[name] = [values[0]] * 20
        columns["rlnTomoName"] = ["TS_%03d" % i for i in range(20)]

    rewrite(folder / "tomograms.star", change)
    for count in (5000, 35000):
        write_many(folder / ("%d.star" % count), count, 20)
    return folder


def peak(words):
    """Largest memory of a command, bytes, and what it says."""
    # By way of a small process: what this one takes counts for its own children.
    code = ("import resource, subprocess, sys; "
            "code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode; "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
    ended = subprocess.run([sys.executable, "-c", code, sys.executable, "-m", "tomoexport", *words],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return int(ended.stdout.split()[-1]) * 1024, ended.stdout


def commands(folder, count):
    """A command per verb on so many particles."""
    table, series = str(folder / ("%d.star" % count)), ["--tomograms", str(folder / "tomograms.star")]
    return {
        "check": ["check", "subtomo", *series, "--particles", table, *faults.BOX],
        "duplicates": ["duplicates", *series, "--particles", table, "--distance", "20"],
        "intersect": ["intersect", *series, "--old", table, "--new", table, "--tolerance", "5"],
        "only project": ["pseudosubtomo", *series, "--particles", table, "--binning", "2", "--box", "16",
                         "--only-project", "--threads", "1"]}


@pytest.mark.parametrize("verb", ["check", "duplicates", "intersect", "only project"])
def test_F26_memory_grows_by_less_than_is_promised(many, tmp_path, verb):
    few, more = (peak([*commands(many, count)[verb], "--output", str(tmp_path / str(count))])
                 for count in (5000, 35000))
    # Two tables; and what was found of each particle is kept until the end.
    rows = 2 if verb in ("intersect", "only project") else 1
    assert (more[0] - few[0]) / 30000 < ROW * rows, (few[0], more[0])


def test_rows_of_others_make_no_difference(simulated, tmp_path):
    """A job for one tilt series reads its own rows, and plans what the whole run plans, for every source."""
    data, chosen = simulated("tiny"), {"pixel_size": 16.0, "box": 16, "diameter": 140.0}
    seen = 0
    for name in SOURCES:
        found = described(name, data, tmp_path / name)
        given = {flag[2:].replace("-", "_"): value for flag, value in found.truth.items()
                 if flag in ("--tomogram-size", "--allow-loss")}
        for verb, more in (("subtomo", chosen), ("pseudosubtomo", {"binning": 2.0, "box": 16})):
            if name.startswith("imod") and verb == "subtomo":
                continue  # without CTF
            without = {"ctf": False, "voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.07} if name.startswith(
                "imod") else {}
            values = options.from_dict(verb, dict(more, **given, **without, tomograms=found.tomograms,
                                                  particles=found.particles))
            whole = runner.plan(verb, values)
            for unit in whole.units:
                own, = runner.plan(verb, values, [unit.name]).units
                assert (own.fingerprint, own.facts) == (unit.fingerprint, unit.facts), (name, verb, unit.name)
                seen += not unit.error
    assert seen > 20


def test_fifty_thousand_particles_in_one_tomogram(simulated, tmp_path):
    folder = simulated("tiny", into=tmp_path / "data")
    rewrite(folder / "tomograms.star", lambda columns: columns.update(rlnTomoName=["TS_000", "TS_001"]))
    write_many(folder / "many.star", 50000, 1)
    assert peak(["pseudosubtomo", "--tomograms", str(folder / "tomograms.star"), "--particles",
                 str(folder / "many.star"), "--binning", "2", "--box", "16", "--only-project", "--threads", "1",
                 "--output", str(tmp_path / "out")])[0] < 500e6


def test_an_image_of_20000_x_20000_pixels(tmp_path):
    """Read section by section: 1.6 GB each, and no copy of the whole file."""
    path = str(tmp_path / "large.mrc")
    mrc.write(path, np.zeros((1, 4, 4), np.float32), 1.0, kind="stack")
    with open(path, "r+b") as file:
        header = np.frombuffer(file.read(1024), np.uint8).copy()
        header.view(np.int32)[:3] = header.view(np.int32)[7:10] = 20000, 20000, 1
        file.seek(0)
        file.write(header.tobytes())
        file.truncate(1024 + 4 * 20000 ** 2)  # holes: it takes no room
    code = ("from tomoexport.io import mrc; stack = mrc.open_stack(%r); image = stack.read(0); "
            "print(image.shape, image.any())" % path)
    ended = subprocess.run([sys.executable, "-c", "import resource; resource.setrlimit(resource.RLIMIT_AS, (%d, %d)); "
                            % (3 << 30, 3 << 30) + code], capture_output=True, text=True)
    assert ended.stdout.strip() == "(20000, 20000) False", ended.stderr


def test_F39_no_place_for_compiled_kernels(simulated, tmp_path):
    """Nor more than one core."""
    data = simulated("tiny")
    environment = dict(os.environ, NUMBA_CACHE_DIR="/dev/null/nowhere", OMP_NUM_THREADS="1")
    words = ["subtomo", "--tomograms", str(data / "tomograms.star"), "--particles", str(data / "particles.star"),
             *faults.BOX, "--output", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
                            "import sys; from tomoexport import cli; sys.exit(cli.main(sys.argv[1:]))", *words],
                           env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and (tmp_path / "particles.star").exists(), ended.stderr


@pytest.mark.parametrize("verb", ["duplicates", "intersect"])
def test_F26_the_plan_tells_how_much_memory_it_takes(many, tmp_path, verb):
    """Within 20 % of what is taken."""
    words = commands(many, 35000)[verb]
    _, said = peak(["check", *words, "--output", str(tmp_path / "check")])
    number, unit = re.search(r"memory ([\d.]+) (MB|GB)", said).groups()
    told = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
    taken, _ = peak([*words, "--output", str(tmp_path / "out")])
    assert 0.8 < told / taken < 1.25, (told, taken)


def test_names_of_several_kinds_are_read_as_in_the_whole_table(simulated, tmp_path):
    """Whether a table is WarpTools' shows in all of its names; and M's names are not RELION's."""
    found = described("warptools_tables", simulated("tiny"), tmp_path / "warptools")
    rewrite(found.particles, lambda columns: columns.update(rlnTomoName=[
        name if name.startswith("TS_01") else name.replace(".tomostar", "") for name in columns["rlnTomoName"]]))
    for only in ("TS_01", "TS_02"):
        whole, own = (particlestar.particle_table(found.particles, names)[0] for names in (None, [only]))
        assert own.rows == whole.rows
    m = tmp_path / "m.star"
    labels = ["wrpCoordinate%s1" % axis for axis in "XYZ"] + ["wrpSourceName", "rlnTomoName"]
    m.write_text("data_\n\nloop_\n" + "".join("_%s\n" % label for label in labels)
                 + "1 2 3 TS_01.tomostar null\n4 5 6 TS_02.tomostar null\n")
    assert len(particlestar.particle_table(str(m), ["TS_01"])[0]) == 2


def test_series_of_one_bare_name_keep_their_own_particles(simulated, tmp_path):
    folder = simulated("tiny", into=tmp_path / "data")
    for name in ("tomograms.star", "particles.star"):
        rewrite(folder / name, lambda columns: columns.update(rlnTomoName=[
            {"TS_01": "TS_1", "TS_02": "TS_1.mrc"}[one] for one in columns["rlnTomoName"]]))
    values = options.from_dict("subtomo", {"tomograms": str(folder / "tomograms.star"), "particles": str(
        folder / "particles.star"), "pixel_size": 16.0, "box": 16, "diameter": 140.0})
    for unit in runner.plan("subtomo", values).units:
        own, = runner.plan("subtomo", values, [unit.name]).units
        assert own.fingerprint == unit.fingerprint
