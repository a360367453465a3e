"""Time against the number of particles and of tilts: benchmarks/scaling.json and docs/scaling.png.

    python benchmarks/plot_scaling.py [--data FOLDER] [--threads 2] [--no-write] [--quick]

The standard job (images of 3838 x 3712 px at 1.35 A): sub-tomograms of box 64 at 5.4 A with their 3D CTFs, and one
tomogram at 10 A. Every point is a process of its own, from its start to its end, with all reading and writing; files
of sub-tomograms are deleted as soon as they are complete, so that no disk is too small. Long lists of particles repeat
the simulated ones, and series of other lengths have their tilts between -60 and 60 degrees and repeat the 41 images.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import HERE, LIBRARIES, STANDARD, finish, machine, standard_job

from tomoexport.engine.backend import keep_freed_memory, select_backend
from tomoexport.engine.ctf import Optics
from tomoexport.engine.simulate import make_series
from tomoexport.io import mrc, particlestar, relion5
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.jobs import reconstruct, subtomo
from tomoexport.jobs.simulate import true_particles
from tomoexport.options import ReconstructOptions, SubtomoOptions

PARTICLES = (100, 300, 1000, 3000, 10000, 30000, 100000)
TILTS = (11, 21, 41, 61, 81, 101, 121)
STANDARD_TILTS, DRAWN = 41, 1000  # tilts of the images; particles that are drawn, and repeated
IMAGE, PIXEL_SIZE, THICKNESS, DIAMETER = (3712, 3838), 1.35, 2700.0, 170.0


def write_tables(folder, data, tilts, particles):
    """A series with so many tilts and particles, of the standard job's images."""
    rng = np.random.default_rng(2026)
    one = make_series("TS_01", IMAGE, PIXEL_SIZE, THICKNESS, tilts, min(particles, DRAWN), rng, DIAMETER,
                      step=120 / (tilts - 1), optics=Optics())
    stack = str(data / "tiltseries" / "TS_01.mrcs")
    images = tuple((stack, t % STANDARD_TILTS) for t in range(tilts))
    relion5.write_project(str(folder), [TiltSeries(one.geometry, one.ctf, images, optics_group="optics1",
                                                   optics=one.ctf.optics)])
    drawn = true_particles([("TS_01", one)])
    index = np.arange(particles) % len(drawn)
    uid = tuple("TS_01/%d" % (i + 1) for i in range(particles))
    repeated = type(drawn)(drawn.position[index], drawn.rotation[index], drawn.ts[index], drawn.ts_ids, uid)
    particlestar.write_particles(str(folder / "particles.star"), repeated)


def worker(folder, verb, threads, write):
    """One job in this process: planned and carried out as by `tomoexport`, without the tables at the end."""
    keep_freed_memory()
    write_whole = mrc.write

    def write_and_delete(path, *given, **named):
        if write:
            write_whole(path, *given, **named)
            os.unlink(path)

    mrc.write = write_and_delete
    common = dict(tomograms=str(folder / "tomograms.star"), output=str(folder), device="cpu", threads=threads)
    if verb == "subtomo":
        job, options = subtomo, SubtomoOptions(particles=str(folder / "particles.star"), pixel_size=5.4, box=64,
                                               **common)
    else:
        job, options = reconstruct, ReconstructOptions(pixel_size=10.0, **common)
    unit = job.plan(options).units[0]
    job.execute(unit, options, select_backend("cpu", threads))


def point(args, verb, tilts, particles):
    """Seconds that one job takes, beside what it is."""
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        write_tables(Path(folder), Path(args.data), tilts, particles)
        command = [sys.executable, __file__, "--worker", folder, "--verb", verb, "--threads", str(args.threads)]
        load, start = os.getloadavg()[0], time.perf_counter()
        subprocess.run(command + ([] if args.write else ["--no-write"]), check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, **{name: "1" for name in LIBRARIES}))
        seconds = time.perf_counter() - start
    print("%-11s %3d tilts %6s particles %8.1f s" % (verb, tilts, particles if verb == "subtomo" else "", seconds),
          flush=True)
    return dict(verb=verb, tilts=tilts, particles=particles, seconds=seconds, load=load)


def draw(result, path):
    """Both panels, as a small PNG."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), dpi=110)
    count, seconds = np.array([(p["particles"], p["seconds"]) for p in result["particles"]]).T
    left.loglog(count, seconds, "o-", color="C0", label="sub-tomograms and 3D CTFs")
    left.loglog(count, seconds[-1] * count / count[-1], ":", color="grey", label="in proportion")
    left.set(xlabel="particles", ylabel="wall time (s)", title="%d tilts" % STANDARD_TILTS)
    left.set_ylim(bottom=min(seconds) / 2)
    for verb, mark, label in (("subtomo", "o-", "%d sub-tomograms" % result["tilt_particles"]),
                              ("reconstruct", "s-", "tomogram at 10 A/px")):
        own = [p for p in result["tilts"] if p["verb"] == verb]
        right.loglog([p["tilts"] for p in own], [p["seconds"] for p in own], mark, label=label)
    tilts = sorted({p["tilts"] for p in result["tilts"]})
    right.set(xlabel="tilts", ylabel="wall time (s)", title="images of 3838 x 3712 px")
    right.xaxis.set_major_locator(FixedLocator([n for n in tilts if n != 101]))  # no room beside 121
    left.set_xlim(count[0] / 1.3, count[-1] * 1.3)
    for axes in (left, right):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: "%d" % value if value >= 1 else "%g" % value))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(STANDARD), help="folder of the standard job's data, made if absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-write", dest="write", action="store_false", help="do not write sub-tomograms")
    parser.add_argument("--particles", type=int, nargs="+", default=PARTICLES)
    parser.add_argument("--tilts", type=int, nargs="+", default=TILTS)
    parser.add_argument("--tilt-particles", type=int, default=300, help="sub-tomograms where tilts are varied")
    parser.add_argument("--quick", action="store_true", help="a trial of less than a minute; --json and --png default "
                        "to the system's temporary folder")
    parser.add_argument("--scratch", help="folder for what is written and deleted; the system's by default")
    parser.add_argument("--json", help="by default scaling.json beside this program")
    parser.add_argument("--png", help="by default docs/scaling.png")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--verb", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(Path(args.worker), args.verb, args.threads, args.write)
    folder = Path(tempfile.gettempdir()) if args.quick else None
    args.json = args.json or str((folder or HERE) / "scaling.json")
    args.png = args.png or str((folder or HERE.parent / "docs") / "scaling.png")
    if args.quick:
        args.particles, args.tilts, args.tilt_particles = (30, 300), (11, 41), 30
    args.data = str(standard_job(args.data))
    result = dict(machine=machine(), threads=args.threads, written=args.write, tilt_particles=args.tilt_particles)
    result["particles"] = [point(args, "subtomo", STANDARD_TILTS, n) for n in sorted(args.particles)]
    result["tilts"] = [point(args, verb, n, args.tilt_particles) for n in sorted(args.tilts)
                       for verb in ("subtomo", "reconstruct")]
    draw(result, args.png)
    finish(args.json, result)


if __name__ == "__main__":
    main()
