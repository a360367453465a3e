"""RELION 5's extraction and reconstruction of a particle: our whole jobs on what RELION was measured on.

    python benchmarks/bench_pseudo.py [--threads 2] [--repeats 3] [--json FILE]

Two tilt series of 41 images of 1024 x 1024 px and 250 particles in each, of noise: only the time matters. Every job is
a process of its own, timed as RELION's were: wall time (the least of the repeats), CPU time of the user and of the
system, peak resident memory. RELION's own figures, of the same jobs with `--j 2` on a computer of two shared cores, are
beside ours; they were not taken in alternating runs, so read them as a scale and not as a ratio.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import LIBRARIES, finish, machine, table

from tomoexport.engine.simulate import make_series
from tomoexport.io import mrc, particlestar, relion5
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.jobs.simulate import true_particles

#: Job: our arguments, and RELION's wall time, user and system time (s) and peak memory (MB).
JOBS = {
    "2D, bin 1, 128 to 64, float16": (["pseudosubtomo", "--box", 128, "--crop", 64], (6.98, 12.1, 1.0, 543)),
    "2D, bin 2, 128 to 64, float16": (["pseudosubtomo", "--box", 128, "--crop", 64, "--binning", 2],
                                      (13.8, 18.6, 1.1, 546)),
    "2D, bin 1, 256 to 128, float16": (["pseudosubtomo", "--box", 256, "--crop", 128], (30.2, 43.5, 1.3, 582)),
    "3D, bin 1, 128 to 64, float16": (["pseudosubtomo", "--box", 128, "--crop", 64, "--no-stack2d"],
                                      (11.2, 19.7, 1.6, 543)),
    "3D, bin 2, 128 to 64, float16": (["pseudosubtomo", "--box", 128, "--crop", 64, "--binning", 2, "--no-stack2d"],
                                      (15.1, 27.1, 1.7, 554)),
    "map, bin 2, box 64": (["particle", "--box", 64, "--binning", 2], (5.1, 8.6, 0.7, 580)),
    "map, bin 1, box 128": (["particle", "--box", 128], (20.3, 19.6, 1.2, 656)),
}


def data(folder):
    """Write the tilt series and the particles."""
    rng, series, truth = np.random.default_rng(1), [], []
    for name, hand in (("TS_01", -1), ("TS_02", 1)):
        one = make_series(name, (1024, 1024), 2.5, 1000.0, 41, 250, rng, 160.0, hand=hand)
        path = str(folder / (name + ".mrcs"))
        mrc.write(path, rng.standard_normal((41, 1024, 1024), dtype=np.float32), 2.5, kind="stack")
        series.append(TiltSeries(one.geometry, one.ctf, tuple((path, t) for t in range(41)), optics_group="optics1",
                                 optics=one.ctf.optics))
        truth.append((name, one))
    relion5.write_project(str(folder), series)
    particlestar.write_particles(str(folder / "particles.star"), true_particles(truth))


def measure(command):
    """Wall, user and system time (s) and peak resident memory (MB) of a process."""
    environment = dict(os.environ, **dict.fromkeys(LIBRARIES, "1"))
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit("failed: " + " ".join(command))
    return time.perf_counter() - start, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024


def main():
    """Run all jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="unbinned windows, as RELION cuts them")
    parser.add_argument("--scratch", help="folder for what is written and deleted; the system's by default")
    parser.add_argument("--json", help="write the figures here as well")
    args = parser.parse_args()
    result, rows = {"machine": machine(), "jobs": {}}, []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        data(folder)
        for name, (ours, relion) in JOBS.items():
            found = []
            for _ in range(args.repeats + 1):  # the first loads the kernels
                command = [sys.executable, "-m", "tomoexport"] + ours + [
                    "--tomograms", folder / "tomograms.star", "--particles", folder / "particles.star",
                    "--output", folder / "out", "--threads", args.threads] + ["--exact"] * args.exact
                found.append(measure([str(part) for part in command]))
                kept = len(list((folder / "out").glob("Subtomograms/*/*_[sd]*")))
                shutil.rmtree(str(folder / "out"))
            best = min(found[1:])
            result["jobs"][name] = dict(zip(("wall_s", "user_s", "system_s", "peak_mb"), best), particles=kept)
            rows.append([name, kept or 500] + ["%.1f" % v for v in best[:3]] + ["%.0f" % best[3]]
                        + ["%.3g / %.3g / %.0f" % (relion[0], relion[1] + relion[2], relion[3])])
            print(name, ", ".join("%.1f" % f[0] for f in found[1:]), file=sys.stderr)
    table(["job, %d threads" % args.threads, "particles", "wall s", "user s", "system s", "peak MB",
           "RELION 5: wall s / CPU s / peak MB"], rows)
    finish(args.json, result)


if __name__ == "__main__":
    main()
