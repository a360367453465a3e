"""What the benchmarks share: data sets that both programs read, the standard job, alternating runs, tables."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import TiltSeriesGeometry

HERE = Path(__file__).resolve().parent
LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
STANDARD = HERE / ".timing"  # where the standard job's data are, unless something else is said


def save(path, series, images, box=0, position=None):
    """Write a tilt series for both programs, in the conventions of `tomoexport.engine.geometry`.

    Parameters
    ----------
    path : Path
    series : SimulatedSeries
    images : ndarray `(T, h, w)` float32
        Particles bright.
    box : int
        Voxels.
    position : ndarray `(N, 3)`, optional
        Angstrom from the tomogram centre; the series' by default.
    """
    g, c = series.geometry, series.ctf
    np.savez(path, images=images, pixel_size=g.pixel_size, tilt=g.tilt, axis=g.axis, shift=g.shift, dose=g.dose,
             hand=g.hand, volume_size=g.volume_size, defocus_u=c.defocus_u, defocus_v=c.defocus_v,
             astigmatism=c.angle, voltage=c.optics.voltage, cs=c.optics.cs,
             amplitude_contrast=c.optics.amplitude_contrast, box=box,
             position=series.position if position is None else position)


def load(path):
    """Read what `save` wrote: dict of arrays, TiltSeriesGeometry and Ctf."""
    with np.load(path) as archive:
        data = {name: archive[name] for name in archive.files}
    geometry = TiltSeriesGeometry(
        "benchmark", data["images"].shape[1:], float(data["pixel_size"]), data["tilt"], data["axis"], data["shift"],
        data["dose"], tuple(data["volume_size"]), int(data["hand"]))
    optics = Optics(float(data["voltage"]), float(data["cs"]), float(data["amplitude_contrast"]))
    return data, geometry, Ctf(optics, data["defocus_u"], data["defocus_v"], data["astigmatism"])


def standard_job(folder):
    """Folder with the data of the standard job, 41 tilts of 3838 x 3712 px at 1.35 A (2.3 GB); made if absent."""
    folder = Path(folder).absolute()
    if not (folder / "tomograms.star").exists():
        print("making the data of the standard job in %s" % folder, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "tomoexport", "simulate", "--preset", "timing", "--output", folder],
                       check=True, stdout=subprocess.DEVNULL)
    return folder


def peer_python():
    """Interpreter of the peer's environment: `TOMOEXPORT_PEER`, or where `setup_peer.sh` puts it."""
    python = Path(os.environ.get("TOMOEXPORT_PEER", HERE / ".peer-venv" / "bin" / "python"))
    if not python.exists():
        sys.exit("%s: the peer's environment is not there. Make it with %s" % (python, HERE / "setup_peer.sh"))
    return str(python)


def run(command, threads):
    """Run a program that ends with a line of JSON; returns that, its `wall` time (s) and the `load` before.

    ``threads`` are those of the libraries for linear algebra and transforms: 1 for our side, as its jobs have it, for
    it has threads of its own.
    """
    environment = dict(os.environ, **{name: str(threads) for name in LIBRARIES})
    load_average, start = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("failed: " + " ".join(str(part) for part in command))
    return dict(json.loads(done.stdout.strip().splitlines()[-1]), wall=time.perf_counter() - start, load=load_average)


def alternate(ours, peers, pairs, threads):
    """Run ours and each peer in turns: ours, peer 1, ours, peer 2, ours, peer 1 ...

    Parameters
    ----------
    ours : list
        Command.
    peers : dict of str to list
        Commands.
    pairs : int
        Times each peer is run.
    threads : int

    Returns
    -------
    dict of str to list of (dict, dict)
        For each peer the pairs of results, ours first.
    """
    if os.getloadavg()[0] > 0.3:
        print("The computer is busy (load %.1f). The peer's threads wait for one another, ours do not: with other work "
              "on the cores its times, and the ratios, come out far too large. Wait, or compare with --threads 1."
              % os.getloadavg()[0], file=sys.stderr)
    found = {name: [] for name in peers}
    for number in range(pairs):
        for name, command in peers.items():
            print("pair %d of %d: %s" % (number + 1, pairs, name), file=sys.stderr)
            found[name].append((run(ours, 1), run(command, threads)))
    return found


def middle(values):
    """Median and range as text."""
    return "%.3g (%.3g to %.3g)" % (statistics.median(values), min(values), max(values))


def correlation(a, b, mask=None):
    """Correlation coefficient of two arrays, within a mask."""
    a, b = (np.asarray(v)[... if mask is None else mask].astype(np.float64).ravel() for v in (a, b))
    return float(np.corrcoef(a, b)[0, 1])


def shells(a, b, at=(0.25, 0.5, 0.75)):
    """Fourier shell correlation of two cubes at fractions of Nyquist, each the mean of 3 shells."""
    from tomoexport.engine.fourier import shell_correlation
    fsc = shell_correlation(a - a.mean(), b - b.mean())
    middle_of = [int(round(f * (len(fsc) - 1))) for f in at]
    return [float(fsc[i - 1:i + 2].mean()) for i in middle_of]


def machine():
    """Processor, cores and versions, for the report."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        model = names[0] if names else model
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "numba")}
    return dict(processor=model, cores=len(os.sched_getaffinity(0)),
                python=platform.python_version(), **versions)


def table(head, rows):
    """Print a table in Markdown."""
    for row in [head, ["---"] * len(head)] + rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def finish(path, result):
    """Print the machine, and write everything as JSON if a path is given."""
    print("\n" + ", ".join("%s %s" % item for item in result["machine"].items()))
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")
