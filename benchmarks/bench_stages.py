"""Where the time goes: CPU time of every stage of the standard job, on one thread and on two.

    python benchmarks/bench_stages.py [--data FOLDER] [--threads 1 2] [--only images subtomos ...] [--json FILE]

The stages are the engine's own functions, timed by wrapping them while the jobs' own code runs: a stage's time is that
of its functions less that of timed functions that they call, summed over threads. Beside milliseconds stand
yardsticks, which mean the same on every computer: one is the median CPU time of `scipy.fft.rfft2` of a 41 x 96 x 96
float32 batch on one thread, taken in the same process before and after every table. Whole jobs are run as processes
of their own: wall and CPU time, peak anonymous memory, and the time until the first work is done.

To add an operation, write a function like `tomogram_cases` and an entry of `OPERATIONS`.
"""

import argparse
import functools
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from common import LIBRARIES, STANDARD, finish, machine, middle, run, standard_job, table

from tomoexport.engine import pseudosubtomo
from tomoexport.engine.backend import Backend, keep_freed_memory
from tomoexport.engine.turn import turn_series
from tomoexport.io import particlestar
from tomoexport.io.project import read_project
from tomoexport.jobs import extraction, reconstruct, subtomo
from tomoexport.jobs.subtomo import Boxes
from tomoexport.jobs.tiltseries import Preparation, prepare
from tomoexport.options import ReconstructOptions, SubtomoOptions

BOX, PIXEL_SIZE = 64, 5.4  # of sub-tomograms
TOMOGRAM_PIXEL_SIZE = 10.0
PSEUDO_BOX = 96
SLABS = 4
INTERVAL = 0.01  # seconds between looks at a job's memory
REST = "rest"


# The clock of the stages ----------------------------------------------------------------------------------------------

class Stages:
    """Wraps functions to sum the CPU time of the threads that call them; a context manager.

    Parameters
    ----------
    functions : dict of str to (str or callable)
        Stage of each function, which is named as "module:attribute" or "module:class.attribute"; a callable gets the
        function's arguments and gives the stage.
    """

    def __init__(self, functions):
        self.functions, self.seconds = functions, {}
        self._local, self._lock, self._kept = threading.local(), threading.Lock(), []

    def __enter__(self):
        for name, stage in self.functions.items():
            module, _, path = name.partition(":")
            owner = importlib.import_module(module)
            *parents, attribute = path.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            original = getattr(owner, attribute)
            self._kept.append((owner, attribute, original))
            setattr(owner, attribute, self._timed(original, stage))
        return self

    def __exit__(self, *error):
        while self._kept:
            setattr(*self._kept.pop())

    def _timed(self, function, stage):
        @functools.wraps(function)
        def timed(*given, **named):
            inner = self._local.__dict__.setdefault("inner", [])  # what functions within the running ones have taken
            name = stage(*given, **named) if callable(stage) else stage
            inner.append(0.0)
            start = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                spent = time.thread_time() - start
                own = spent - inner.pop()
                if inner:
                    inner[-1] += spent
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + own

        return timed


def yardstick(repeats=60):
    """Median CPU time (s) of one rfft2 of a 41 x 96 x 96 float32 batch."""
    batch = np.random.default_rng(0).standard_normal((41, 96, 96), dtype=np.float32)
    times = []
    for _ in range(repeats + 5):
        start = time.thread_time()
        scipy.fft.rfft2(batch, axes=(1, 2))
        times.append(time.thread_time() - start)
    return statistics.median(times[5:])


# Operations -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Operation:
    """What is timed, and how its time is divided.

    Attributes
    ----------
    title, per : str
        For the tables; `per` is what one unit of work is.
    cases : callable
        ``cases(setup)`` yields, for each table, a name, a function that does the work once, and how many units that is.
        The function may return a folder, to be deleted before the next run.
    functions : dict
        As `Stages` takes it.
    stages : tuple of str
        All of the stages, in the order of the table.
    apart : tuple of str
        Stages that are done once per tilt series: shown in ms per run, and not in the total.
    totals : dict of str to (tuple of str or None, float or None, float or None)
        Stages that are added up (None: all that are not apart, and the rest), and the goal and stretch goal in
        yardsticks.
    """

    title: str
    per: str
    cases: Any
    functions: dict
    stages: tuple
    apart: tuple = ()
    totals: Any = None


class Setup:
    """Data, scratch folder and backend of a worker; prepared stacks are made once."""

    def __init__(self, args, scratch):
        self.data, self.scratch, self.args = Path(args.data), Path(scratch), args
        self.backend = Backend("cpu", threads=args.worker_threads)
        self._prepared = {}

    def options(self, cls, **values):
        """Options of a verb for the standard job."""
        if cls is not ReconstructOptions:
            values["particles"] = str(self.data / "particles.star")
        return cls(tomograms=str(self.data / "tomograms.star"), output=str(self.scratch),
                   threads=self.args.worker_threads, device="cpu", **values)

    def prepared(self, one, how, backend=None, progress=None):
        """What `jobs.tiltseries.prepare` gives for a series; kept, so that the runs that are timed do not read."""
        key = how.pixel_size, how.invert, how.turn is None
        if key not in self._prepared:
            self._prepared[key] = prepare(one, how, self.backend)
        return self._prepared[key]

    def execute(self, job, unit, options):
        """Carry out a job's unit with images that are prepared already; returns the folder that holds the files."""
        output = tempfile.mkdtemp(dir=self.scratch)
        options = replace(options, output=output)
        extraction.prepare = reconstruct.prepare = self.prepared
        try:
            with open(os.devnull, "w") as nothing:
                with redirect_stdout(nothing):  # progress
                    job.execute(unit, options, self.backend)
        finally:
            extraction.prepare = reconstruct.prepare = prepare
        return output


def image_cases(setup):
    """Reading, levelling and rescaling, as every job begins."""
    for pixel_size in (PIXEL_SIZE, TOMOGRAM_PIXEL_SIZE):
        options = setup.options(ReconstructOptions, pixel_size=pixel_size)
        one = reconstruct.plan(options).units[0].series
        n = min(setup.args.images, one.geometry.n_tilts)
        work = functools.partial(prepare, one.select(np.arange(n)), Preparation(pixel_size), setup.backend)
        yield "to %g A" % pixel_size, work, n
    turn, geometry, ctf = turn_series(one.geometry.select(np.arange(n)), None, PIXEL_SIZE)
    work = functools.partial(prepare, replace(one.select(np.arange(n)), geometry=geometry, ctf=None),
                             Preparation(PIXEL_SIZE, turn=turn), setup.backend)
    yield "to %g A and turned, for sub-tomograms" % PIXEL_SIZE, work, n


def subtomo_cases(setup):
    """Particles that all tilts show, written as they are made."""
    options = setup.options(SubtomoOptions, pixel_size=PIXEL_SIZE, box=BOX)
    for padded in (80, 96):
        unit = subtomo.plan(options).units[0]
        work = unit.work
        chosen = np.flatnonzero(work.seen.all(axis=1))[:setup.args.particles]
        unit.work = replace(work, particles=work.particles.select(chosen), seen=work.seen[chosen],
                            kept=work.kept[chosen], own=Boxes(padded))
        yield ("box %d from %d" % (BOX, padded), functools.partial(setup.execute, subtomo, unit, options), len(chosen))


def pseudo_cases(setup):
    """RELION 5 pseudo-subtomograms of particles that all tilts show, in memory: 3D sums and 2D stacks."""
    options = setup.options(SubtomoOptions, pixel_size=PIXEL_SIZE, box=BOX, invert=False)
    unit = subtomo.plan(options).units[0]
    stack, one, _ = setup.prepared(unit.series, Preparation(PIXEL_SIZE, invert=False))
    g = one.geometry
    chosen = np.flatnonzero(unit.work.seen.all(axis=1))[:setup.args.particles]
    seen = g.project(unit.work.particles.position[chosen])
    position, depth, visible = stack.position_px(seen.xy), g.defocus_shift(seen.depth), np.ones(seen.depth.shape, bool)

    def export(volumes):
        plan = pseudosubtomo.setup_pseudosubtomos(g, one.ctf, PSEUDO_BOX, BOX, PIXEL_SIZE,
                                                  PIXEL_SIZE / g.pixel_size, setup.backend)

        def work(i):
            some = slice(i, i + 1)
            if volumes:
                pseudosubtomo.extract_volumes(stack.images, plan, position[some], depth[some], seen.matrix,
                                              visible[some], setup.backend)
            else:
                pseudosubtomo.extract_stacks(stack.images, plan, position[some], depth[some], visible[some],
                                             setup.backend)

        with ThreadPoolExecutor(setup.backend.threads) as pool:
            list(pool.map(work, range(len(chosen))))

    for volumes in (True, False):
        yield ("%s, box %d from %d" % ("3D" if volumes else "2D", BOX, PSEUDO_BOX), functools.partial(export, volumes),
               len(chosen))


def tomogram_cases(setup):
    """Tomograms with odd and even halves, written."""
    options = setup.options(ReconstructOptions, pixel_size=TOMOGRAM_PIXEL_SIZE, halves=True)
    for slabs in (None, SLABS):
        unit = reconstruct.plan(options).units[0]
        plan = unit.work.setup
        if slabs:
            height = plan.slab_height * plan.n_slabs / slabs
            plan = replace(plan, n_slabs=slabs, slab_height=height)
            unit.work = replace(unit.work, setup=plan)
        yield ("%g A, %d x %d x %d voxels, odd, even and full, %s" % (
            (TOMOGRAM_PIXEL_SIZE,) + plan.shape[::-1] + (
                "1 slab" if plan.n_slabs == 1 else "%d slabs" % plan.n_slabs,)),
            functools.partial(setup.execute, reconstruct, unit, options), 1)


JOBS, ENGINE, KERNELS, IO = "tomoexport.jobs.", "tomoexport.engine.", "tomoexport.engine.kernels.cpu:", "tomoexport.io."

OPERATIONS = {
    "images": Operation(
        "Reading and rescaling a tilt image", "image", image_cases, {
            IO + "mrc:Stack.read": "read",
            ENGINE + "preprocess:line_sums": "level, sd",
            ENGINE + "preprocess:fit_plane": "level, sd",
            ENGINE + "preprocess:Level.apply": "level, sd",
            ENGINE + "preprocess:Edges.apply": "taper",
            ENGINE + "transforms:rfft": "transform",
            ENGINE + "transforms:fft": "transform",
            ENGINE + "fourier:rescale_lengths": "lengths",
            ENGINE + "preprocess:fourier_rescale": "pad, crop, inverse",  # what it does beside transforms
            ENGINE + "preprocess:low_frequencies": "pad, crop, inverse",
            ENGINE + "transforms:irfft2": "pad, crop, inverse",
            ENGINE + "preprocess:turn_image": "turn",
            ENGINE + "transforms:ifft": "turn",
            ENGINE + "transforms:irfft": "turn",
            KERNELS + "resample": "turn",
            ENGINE + "preprocess:prepare_image": "scale, normalise",
        }, ("read", "level, sd", "taper", "lengths", "transform", "pad, crop, inverse", "scale, normalise", "turn"),
        totals={"reading and rescaling": (("read", "level, sd", "taper", "lengths", "transform", "pad, crop, inverse",
                                           "scale, normalise", "rest"), 100, 60),
                "all": (None, None, None)}),
    "subtomos": Operation(
        "Sub-tomogram and 3D CTF", "particle", subtomo_cases, {
            JOBS + "subtomo:setup_subtomos": "plan of the series",
            ENGINE + "subtomo:setup_visible": "plan of the series",
            KERNELS + "crop": "cut",
            ENGINE + "transforms:rfft2": "transform",
            KERNELS + "modulate_parts": "CTF",
            ENGINE + "subtomo:slices": "crop",  # what is left of it
            KERNELS + "join_parts": "crop",
            KERNELS + "spread_rows": "gridding",
            ENGINE + "transforms:ifft": "inverse transform",
            ENGINE + "transforms:irfft": "inverse transform",
            ENGINE + "subtomo:_spread": "window, 3D CTF",  # what is left of it
            JOBS + "subtomo:normalise_volume": "normalise",
            IO + "mrc:write": "write",
        }, ("plan of the series", "cut", "transform", "CTF", "crop", "gridding", "inverse transform",
            "window, 3D CTF", "normalise", "write"), apart=("plan of the series",),
        totals={"without normalising and writing": (("cut", "transform", "CTF", "crop", "gridding",
                                                     "inverse transform", "window, 3D CTF"), None, None),
                "all": (None, None, None)}),
    "pseudo": Operation(
        "RELION 5 pseudo-subtomogram", "particle", pseudo_cases, {
            ENGINE + "pseudosubtomo:setup_pseudosubtomos": "plan of the series",
            KERNELS + "crop": "cut",
            ENGINE + "pseudosubtomo:windows": "transform",  # what is left of it
            KERNELS + "modulate": "CTF",
            ENGINE + "pseudosubtomo:_circled": "inverse transform of the windows",  # what is left of it
            KERNELS + "circle": "circle",
            ENGINE + "pseudosubtomo:extract_stacks": "second transform, scales",  # what is left of it
            ENGINE + "pseudosubtomo:extract_volumes": "second transform, scales",
            KERNELS + "insert_linear": "insertion",
            KERNELS + "fold_linear": "fold",
            ENGINE + "transforms:irfftn": "inverse transform",
        }, ("plan of the series", "cut", "transform", "CTF", "inverse transform of the windows", "circle",
            "second transform, scales", "insertion", "fold", "inverse transform"), apart=("plan of the series",),
        totals={"all": (None, None, None)}),
    "tomogram": Operation(
        "Whole tomogram", "tomogram", tomogram_cases, {
            JOBS + "reconstruct:memory_bytes": "filter tables",
            ENGINE + "rows:RowSampler.__init__": "filter tables",
            ENGINE + "rows:RowSampler._tables": "filter tables",
            ENGINE + "rows:interpolation_table": "filter tables",
            ENGINE + "transforms:rfft2": "forward transform",
            KERNELS + "weigh": "filters",
            ENGINE + "transforms:irfft2": "inverse transform",
            ENGINE + "rows:RowSampler.fill": "rows",
            KERNELS + "resample": "rows",
            ENGINE + "tomogram:_Work._back_project": "back-projection",
            KERNELS + "backproject": "back-projection",
            KERNELS + "backproject_sheared": "back-projection",
            ENGINE + "tomogram:_Work._finished": "halves",
            IO + "mrc:VolumeWriter.__enter__": "write",
            IO + "mrc:VolumeWriter.put": "write",
            IO + "mrc:VolumeWriter.__exit__": "write",
            JOBS + "report:tomogram_slices": "picture for the report",
        }, ("filter tables", "forward transform", "filters", "inverse transform", "rows", "back-projection", "halves",
            "write", "picture for the report"), apart=("picture for the report",),
        totals={"back-projection alone": (("back-projection",), None, None),
                "all after rescaling": (None, 1500, 1000)}),
}


# Measuring and reporting ----------------------------------------------------------------------------------------------

def worker(name, args):
    """All cases of an operation, in a process of its own; prints the figures as JSON."""
    keep_freed_memory()  # as every job does
    operation, cases = OPERATIONS[name], []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for case, work, count in operation.cases(Setup(args, scratch)):
            before = yardstick()
            found = measure(operation, work, count, args.repeats)
            cases.append(dict(found, name=case, count=count, yardstick_ms=[1e3 * before, 1e3 * yardstick()]))
    print(json.dumps(dict(cases=cases)))


def measure(operation, work, count, repeats):
    """Medians over several runs: ms of each stage (per unit of work; those apart per run), of the rest, of the wall."""
    with Stages(operation.functions) as stages:
        clean(work())  # loads the kernels
        found = []
        for _ in range(repeats):
            stages.seconds = {}
            wall, cpu = time.perf_counter(), time.process_time()
            folder = work()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            clean(folder)
            unknown = set(stages.seconds) - set(operation.stages)
            if unknown:
                raise KeyError("stages without a row: %s" % unknown)
            one = {s: 1e3 * stages.seconds.get(s, 0.0) for s in operation.stages}
            one[REST] = 1e3 * cpu - sum(one.values())
            found.append(({s: v if s in operation.apart else v / count for s, v in one.items()}, 1e3 * wall / count))
    return dict(ms={s: statistics.median(f[0][s] for f in found) for s in found[0][0]},
                wall_ms=statistics.median(f[1] for f in found))


def clean(folder):
    """Delete what a run wrote, if it returned a folder."""
    if isinstance(folder, str):
        shutil.rmtree(folder)


def report(operation, result, threads):
    """Print the tables of one operation on some threads, and add what they say to the result."""
    for case in result["cases"]:
        ms, sticks = case["ms"], case["yardstick_ms"]
        stick = statistics.mean(sticks)
        inside = [s for s in (*operation.stages, REST) if s not in operation.apart and ms[s]]
        whole = sum(ms[s] for s in inside)
        print("\n%s, %s: CPU time per %s, %s\n" % (operation.title, case["name"], operation.per, plural(threads)))
        rows = [[s, "%.4g" % ms[s], "%.3g" % (ms[s] / stick), "%.0f %%" % (100 * ms[s] / whole)] for s in inside]
        case["totals"] = {}
        for name, (stages, goal, stretch) in operation.totals.items():
            value = sum(ms[s] for s in inside if stages is None or s in stages)
            case["totals"][name] = dict(ms=value, yardsticks=value / stick, goal=goal, stretch=stretch)
            aim = "" if goal is None else " (goal %g, stretch %g)" % (goal, stretch)
            rows.append(["**%s**" % name, "%.4g" % value, "**%.4g**%s" % (value / stick, aim),
                         "%.0f %%" % (100 * value / whole)])
        rows += [["%s, once per series" % s, "%.4g" % ms[s], "%.3g" % (ms[s] / stick), ""] for s in operation.apart]
        table(["stage", "ms", "yardsticks", "share"], rows)
        print("\nwall time %.4g ms; yardstick %.3f ms before, %.3f after; load %.1f%s" % (
            case["wall_ms"], *sticks, result["load"],
            "; **the yardstick changed: the computer was busy, repeat this**" if max(sticks) > 1.1 * min(sticks) else ""
        ))


def plural(threads):
    return "1 thread" if threads == 1 else "%d threads" % threads


# Whole jobs -----------------------------------------------------------------------------------------------------------

# Stops a job once a kernel has run, and says when that was.
UNTIL = """
import os, sys, time
from tomoexport.cli import main
from tomoexport.engine.kernels import cpu
imported, name = time.time(), sys.argv[1]
def last(*given, kernel=getattr(cpu, name)):
    kernel(*given)
    print('\\n[%r, %r]' % (imported, time.time()), flush=True)
    os._exit(0)
setattr(cpu, name, last)
sys.exit(main(sys.argv[2:]))
"""


def alone():
    """Environment in which libraries take one thread each."""
    return dict(os.environ, **{name: "1" for name in LIBRARIES})


def watch(command):
    """Run a process: its wall and CPU time (s) and the peak of its anonymous memory (MB)."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([str(c) for c in command], env=alone(), stdout=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, anonymous(process.pid))
        time.sleep(INTERVAL)
    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    if process.returncode:
        sys.exit("failed: " + " ".join(str(c) for c in command))
    return dict(wall=time.perf_counter() - start, cpu=usage.ru_utime + usage.ru_stime, anonymous_mb=peak / 1024)


def anonymous(pid):
    """RssAnon of a process, KiB; 0 when it has gone."""
    try:
        with open("/proc/%d/status" % pid) as handle:
            return next((int(line.split()[1]) for line in handle if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def job_commands(data, particles, output, threads):
    """Whole jobs, by name."""
    verb = [sys.executable, "-m", "tomoexport"]
    common = ["--tomograms", data / "tomograms.star", "--output", output, "--device", "cpu", "--threads", threads]
    return {
        "subtomo, box %d, %g A" % (BOX, PIXEL_SIZE): verb + [
            "subtomo", "--particles", particles, "--pixel-size", PIXEL_SIZE, "--box", BOX] + common,
        "reconstruct, %g A, odd, even and full" % TOMOGRAM_PIXEL_SIZE: verb + [
            "reconstruct", "--halves", "--pixel-size", TOMOGRAM_PIXEL_SIZE] + common}


def whole_jobs(args):
    """Run the jobs as a user does, and print what they take."""
    data, found = Path(args.data), []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        particles = Path(scratch) / "particles.star"
        one = particlestar.read_particles(str(data / "particles.star"),
                                          read_project(str(data / "tomograms.star")))
        chosen = one[0].select(np.arange(min(args.job_particles, len(one[0]))))
        particlestar.write_particles(str(particles), chosen)
        for threads in args.threads:
            for name in job_commands(data, particles, "", threads):
                runs = []
                for _ in range(args.job_repeats):
                    with tempfile.TemporaryDirectory(dir=scratch) as output:
                        runs.append(watch(job_commands(data, particles, output, threads)[name]))
                found.append(dict(name=name, threads=threads, runs=runs))
    print("\nWhole jobs as processes, %d sub-tomograms; median (range) of %d\n" % (len(chosen), args.job_repeats))
    table(["job", "threads", "wall s", "CPU s", "peak anonymous memory MB"],
          [[job["name"], job["threads"]] + [middle([r[key] for r in job["runs"]])
                                            for key in ("wall", "cpu", "anonymous_mb")] for job in found])
    return found


def first_work(args):
    """Time from the start of a process until each kernel of a verb has run on tiny images; print it."""
    found = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        scratch = Path(scratch)
        subprocess.run([sys.executable, "-m", "tomoexport", "simulate", "--preset", "tiny", "--output", scratch],
                       check=True, stdout=subprocess.DEVNULL)
        common = ["--tomograms", scratch / "tomograms.star", "--device", "cpu", "--threads", 1, "--output"]
        for verb, kernel, rest in (
                ("subtomo", "fold_grid", ["--particles", scratch / "particles.star", "--box", 32, "--pixel-size", 8]),
                ("reconstruct", "backproject", ["--pixel-size", 16])):
            times = []
            for n in range(args.job_repeats + 1):  # the first one may compile
                command = [sys.executable, "-c", UNTIL, kernel, verb] + rest + common + [scratch / ("%s%d" % (verb, n))]
                start = time.time()
                done = subprocess.run([str(c) for c in command], env=alone(), check=True, stdout=subprocess.PIPE,
                                      text=True)
                last = done.stdout.strip().splitlines()[-1]
                if not last.startswith("["):
                    sys.exit("%s ended without %s:\n%s" % (verb, kernel, done.stdout))
                times.append([t - start for t in json.loads(last)])
            found[verb] = [dict(imports=a, first_work=b) for a, b in times[1:]]
    print("\nFrom the start of a process until each kernel has run once on a tiny series, kernels cached; "
          "median (range) of %d\n" % args.job_repeats)
    table(["job", "imports s", "first work done s"],
          [[verb, middle([t["imports"] for t in times]), middle([t["first_work"] for t in times])]
           for verb, times in found.items()])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(STANDARD), help="folder of the standard job's data, made if absent")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=[*OPERATIONS, "jobs"], default=[*OPERATIONS, "jobs"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each case, of which the median is taken")
    parser.add_argument("--images", type=int, default=41, help="tilt images of one run")
    parser.add_argument("--particles", type=int, default=100, help="sub-tomograms of one run")
    parser.add_argument("--job-particles", type=int, default=1000, help="sub-tomograms of the whole job")
    parser.add_argument("--job-repeats", type=int, default=3)
    parser.add_argument("--scratch", help="folder for what is written and deleted; the system's by default")
    parser.add_argument("--json", help="write the figures here as well")
    parser.add_argument("--worker", choices=OPERATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--worker-threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args)
    args.data = str(standard_job(args.data))
    operations, jobs, start = [], [], {}
    for name in args.only:
        for threads in args.threads if name in OPERATIONS else ():
            command = [sys.executable, __file__, "--worker", name, "--worker-threads", threads, "--data", args.data,
                       "--repeats", args.repeats, "--images", args.images, "--particles", args.particles]
            # Libraries get one thread: what is parallel is ours.
            result = run(command + (["--scratch", args.scratch] if args.scratch else []), 1)
            report(OPERATIONS[name], result, threads)
            operations.append(dict(result, operation=name, threads=threads))
    if "jobs" in args.only:
        start = first_work(args)  # which compiles the kernels if need be
        jobs = whole_jobs(args)
    finish(args.json, dict(machine=machine(), arguments=vars(args), operations=operations, jobs=jobs, start=start))


if __name__ == "__main__":
    main()
