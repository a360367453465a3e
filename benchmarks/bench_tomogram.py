"""Whole tomogram: tomoexport against warpylib's `reconstruct_full`, in alternating runs on the same images.

    python benchmarks/bench_tomogram.py [--pairs 3] [--threads 2] [--json FILE]

Both get binned tilt images in memory, prepare them (level, taper, normalise) and give the tomogram in memory at the
same pixel size; compilation, reading and writing are left out on both sides. Ours is also run with odd and even half
tomograms in the same pass. Accuracy beside it: how well the two agree on the same white noise, with and without CTF,
and how well each agrees with the density of simulated particles.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import HERE, alternate, correlation, finish, load, machine, middle, peer_python, run, save, shells, table

from tomoexport.engine.backend import Backend, keep_freed_memory
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.preprocess import prepare_stack
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.engine.tomogram import reconstruct_tomogram, setup_tomogram
from tomoexport.engine.weights import odd_even_groups

BLOCK = 64  # voxels: side of the cubes that are compared


def reconstruct(path, threads, with_ctf=True, halves=False):
    """Our tomogram (and halves) of a data set, and the seconds from images to volumes."""
    data, geometry, ctf = load(path)
    keep_freed_memory()  # as every job does
    pixel, backend, images = geometry.pixel_size, Backend("cpu", threads=threads), data["images"]
    start = time.perf_counter()
    stack = prepare_stack(lambda t: images[t].copy(), ["image %d" % t for t in range(len(images))], pixel, pixel,
                          invert=False, threads=threads)
    plan = setup_tomogram(geometry, pixel, ctf if with_ctf else None)
    group = odd_even_groups(geometry.tilt, geometry.used) if halves else None
    volumes = reconstruct_tomogram(stack, geometry, ctf if with_ctf else None, plan, backend,
                                   "phaseflip" if with_ctf else "none", with_ctf, group)
    return volumes, time.perf_counter() - start


def series_of(args, shape, thickness, particles):
    rng = np.random.default_rng(args.seed)
    return make_series("tomogram", shape, args.pixel_size, thickness, args.tilts, particles, rng, 40 * args.pixel_size)


def noise_data(path, args, shape, thickness):
    """White noise."""
    rng = np.random.default_rng(args.seed)
    save(path, series_of(args, shape, thickness, 0),
         rng.standard_normal((args.tilts,) + tuple(shape), dtype=np.float32))


def known_data(path, args):
    """Noise-free particles in a small series; returns where they are (zyx, voxels) and their density."""
    pixel, shape = args.pixel_size, (256, 256)
    series = series_of(args, shape, 100 * pixel, 12)
    phantom = chiral_phantom(24 * pixel)
    save(path, series, -np.stack([project_tilt(series, phantom, t, decay=False) for t in range(args.tilts)]))
    corner = np.round(np.array(series.geometry.volume_size) / pixel / 2)
    voxel = np.rint(series.position / pixel)
    rest = series.position - voxel * pixel
    poses = matrix_from_zyz(*series.angles.T)
    density = [Phantom(phantom.centre @ pose.T + r, phantom.sigma, phantom.weight).volume(32, pixel)
               for pose, r in zip(poses, rest)]
    return (voxel + corner).astype(int)[:, ::-1], np.stack(density)


def truth_correlation(tomogram, places, density):
    """Mean correlation of the tomogram with the particles that are in it."""
    found = []
    for place, truth in zip(places, density):
        cut = tomogram[tuple(slice(max(c - 16, 0), c + 16) for c in place)]
        if cut.shape == truth.shape:
            found.append(correlation(cut, truth))
    return float(np.mean(found))


def agreement(ours, theirs):
    """Correlation of cubes about the centre: all in all, and by shells."""
    cut = tuple(slice(n // 2 - BLOCK, n // 2 + BLOCK) for n in ours.shape)
    window = np.hanning(2 * BLOCK).astype(np.float32)
    window = window[:, None, None] * window[:, None] * window
    a, b = ours[cut] * window, theirs[cut] * window
    return {"all": correlation(a, b), "shells": shells(a, b)}


def accuracy(folder, peer, args):
    """Figures beside the times."""
    known, noise, out = folder / "known.npz", folder / "small.npz", folder / "out.npz"
    places, density = known_data(known, args)
    noise_data(noise, args, (256, 256), 160 * args.pixel_size)
    result = {"truth": {}, "agreement": {}}
    for name, tail in (("CTF", []), ("no CTF", ["--no-ctf"])):
        run([*peer, "tomogram", noise, out, *tail], args.threads)
        (ours,), _ = reconstruct(noise, args.threads, with_ctf=not tail)
        result["agreement"][name] = agreement(ours, np.load(out)["tomogram"])
    run([*peer, "tomogram", known, out], args.threads)
    result["truth"]["warpylib"] = truth_correlation(np.load(out)["tomogram"], places, density)
    result["truth"]["tomoexport"] = truth_correlation(reconstruct(known, args.threads)[0][0], places, density)
    return result


def worker(folder, threads):
    """One timed run of our side in a process of its own, after a small one that loads the kernels."""
    small, data = Path(folder) / "warm.npz", Path(folder) / "data.npz"
    reconstruct(small, threads)
    reconstruct(small, threads, halves=True)
    one = reconstruct(data, threads)[1]
    both = reconstruct(data, threads, halves=True)[1]
    print(json.dumps(dict(seconds=[one, both])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pixel-size", type=float, default=10.0)
    parser.add_argument("--shape", type=int, nargs=2, default=(502, 518), metavar=("H", "W"),
                        help="of the binned images, above 128 (peer's padding); the default is 3838 x 3712 at 1.35 A")
    parser.add_argument("--depth", type=int, default=250, help="voxels")
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--batch", type=int, default=8, help="tiles of one call of the peer (8 is its default)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-accuracy", dest="accuracy", action="store_false")
    parser.add_argument("--json", help="write the figures here as well")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.threads)
    peer = [peer_python(), HERE / "peer_warpylib.py", "--threads", args.threads, "--batch", args.batch]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        noise_data(folder / "data.npz", args, args.shape, args.depth * args.pixel_size)
        noise_data(folder / "warm.npz", args, (64, 64), 32 * args.pixel_size)
        ours = [sys.executable, __file__, "--worker", folder, "--threads", args.threads]
        pairs = alternate(ours, {"warpylib": [*peer, "tomogram", folder / "data.npz", folder / "out.npz"]},
                          args.pairs, args.threads)["warpylib"]
        figures = accuracy(folder, peer, args) if args.accuracy else {}
    summary = report(pairs)
    for name, values in figures.items():
        print("\n%s: %s" % (name, json.dumps(values)))
    finish(args.json, dict(machine=machine(), versions=pairs[0][1]["versions"], arguments=vars(args),
                           summary=summary, pairs=pairs, accuracy=figures))


def report(pairs):
    """Print the table; medians as a dict."""
    theirs = [peer["seconds"][0] for _, peer in pairs]
    rows, summary = [["warpylib", middle(theirs), ""]], {"warpylib": statistics.median(theirs)}
    for i, name in enumerate(("tomoexport, one map", "tomoexport, full + odd + even")):
        own = [mine["seconds"][i] for mine, _ in pairs]
        ratio = [t / m for t, m in zip(theirs, own)]
        rows.append([name, middle(own), middle(ratio)])
        summary[name] = dict(seconds=statistics.median(own), ratio=statistics.median(ratio))
    table(["median (range)", "s", "warpylib over this"], rows)
    print("\nload before each run: %s" % middle([one["load"] for pair in pairs for one in pair]))
    return summary


if __name__ == "__main__":
    main()
