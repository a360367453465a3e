"""Sub-volume and 3D CTF per particle: tomoexport against warpylib, in alternating runs on the same images.

    python benchmarks/bench_subtomo.py [--pairs 3] [--threads 2] [--json FILE]

Both get prepared tilt images in memory and give volumes and 3D CTFs in memory; compilation, reading and writing are
left out on both sides. Our time counts turning the images, shared by the 1000 particles of the standard job. Beside our
sub-tomograms (Kaiser-Bessel gridding, 3D CTF without aliasing) stand RELION 5's pseudo-subtomograms from our engine
(trilinear sums from a box half as large again, with CTF^2 and multiplicity), which are the same job done its way. The
peer is run at oversampling 2 (the default of its sub-volumes) and at 1 (the default of its 3D CTFs). Accuracy beside
it: how far a simulated object, exported, is from that object filtered by the exported 3D CTF; how far gridding is from
the exact sum; and how well the two programs' results on the same noise agree.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.fft
from common import HERE, alternate, correlation, finish, load, machine, middle, peer_python, run, save, shells, table

from tomoexport.engine.backend import Backend, keep_freed_memory
from tomoexport.engine.ctf import frequency_grid
from tomoexport.engine.fourier import sphere
from tomoexport.engine.kernels import implementation
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.preprocess import PreparedStack
from tomoexport.engine.pseudosubtomo import extract_volumes, setup_pseudosubtomos
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.engine.subtomo import padded_box, reconstruct_subtomos, setup_subtomos
from tomoexport.engine.turn import ALONG_X, turn_image, turn_series
from tomoexport.engine.weights import envelope

CHUNK = 1  # particles that a thread works on at once, as in an export
SERIES = 1000  # particles of the standard job, which share the turned images
DIAMETER = 0.8  # of the box


def export(data, geometry, ctf, threads, with_ctf=True, repeats=1, relion=False):
    """Reconstruct all particles with our engine.

    Returns
    -------
    volumes, transfer : ndarray `(N, box, box, box)`, `(N, box, box, box//2+1)`
        With `relion` pseudo-subtomograms and their CTF^2.
    seconds : float
        Of the particles, in all repeats.
    turn_seconds : float
        Of turning the images, which a tilt series needs once.
    plan_seconds : float
        Of what else it needs once.
    """
    keep_freed_memory()  # as every job does
    backend = Backend("cpu", threads=threads)
    pixel, box = geometry.pixel_size, int(data["box"])
    stack = PreparedStack(data["images"], (pixel, pixel), np.zeros(geometry.n_tilts, bool),
                          np.zeros(geometry.n_tilts, int))
    ctf = ctf if with_ctf else None
    turn_seconds = 0.0
    if not relion:
        turn_images(stack, geometry, threads)  # compiles
        start = time.perf_counter()
        stack = turn_images(stack, geometry, threads)
        turn_seconds = time.perf_counter() - start
        _, geometry, ctf = turn_series(geometry, ctf, pixel)
    start = time.perf_counter()
    if relion:
        plan = setup_pseudosubtomos(geometry, ctf, int(1.5 * box), box, pixel, 4.0, backend)
        make = extract_volumes
    else:
        depth_range = np.abs(geometry.project(data["position"]).depth).max()
        padded, _ = padded_box(box, ctf, pixel, DIAMETER * box * pixel, depth_range)
        plan = setup_subtomos(geometry, ctf, box, padded, pixel, backend, dose_weighting=with_ctf)
        make = reconstruct_subtomos
    plan_seconds = time.perf_counter() - start

    def run(pool):
        """All particles, as an export does it: projected together, reconstructed one by one."""
        seen = geometry.project(data["position"])
        place, depth, visible = stack.position_px(seen.xy), geometry.hand * seen.depth, np.ones(seen.depth.shape, bool)
        return list(pool.map(lambda some: make(stack.images, plan, place[some], depth[some], seen.matrix, visible[some],
                                               backend), chunks))

    chunks = [slice(i, i + CHUNK) for i in range(0, len(data["position"]), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        run(pool)
        start = time.perf_counter()
        for _ in range(repeats):
            results = run(pool)
        seconds = time.perf_counter() - start
    return (*(np.concatenate(part) for part in list(zip(*results))[:2]), seconds, turn_seconds, plan_seconds)


def turn_images(stack, geometry, threads):
    """Turn prepared images; an export does it while it rescales them and saves a transform of each."""
    pixel = geometry.pixel_size
    turn, _, _ = turn_series(geometry, None, pixel)
    out = np.empty((geometry.n_tilts,) + turn.shape, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda t: turn_image(scipy.fft.rfft2(stack.images[t]), (pixel, pixel), turn.angle[t], pixel,
                                           implementation("cpu"), out[t]), range(len(out))))
    return replace(stack, images=out)


def noise_data(path, shape, box, pixel_size, particles, tilts, seed):
    """White noise: every frequency counts, and nothing agrees by chance."""
    rng = np.random.default_rng(seed)
    series = make_series("noise", shape, pixel_size, 1600.0, tilts, particles, rng, box * pixel_size)
    images = rng.standard_normal((tilts,) + tuple(shape), dtype=np.float32)
    save(path, series, images, box)


def known_data(path, box, pixel_size, tilts, seed, decayed=False):
    """Four noise-free particles far apart; returns the density of each `(4, box, box, box)`.

    With `decayed` the images have the weights of dose and tilt in them: the peer's 3D CTF takes them for a part of
    the signal, ours for a filter.
    """
    rng = np.random.default_rng(seed)
    phantom = chiral_phantom(0.6 * box * pixel_size)
    step = 2.2 * box
    shape = (2 * int(2.2 * box), 2 * int(3 * step))
    series = make_series("known", shape, pixel_size, 800.0, tilts, 4, rng, box * pixel_size)
    along = (np.arange(4) - 1.5) * step * pixel_size
    position = np.stack([rng.uniform(-60, 60, 4), along + rng.uniform(-5, 5, 4), rng.uniform(-300, 300, 4)], -1)
    series = replace(series, position=position)
    images = -np.stack([project_tilt(series, phantom, t, decay=False) for t in range(tilts)])
    if decayed:
        kx, ky = frequency_grid(shape, pixel_size)
        images = scipy.fft.irfft2(scipy.fft.rfft2(images) * envelope(series.geometry, kx ** 2 + ky ** 2), s=shape)
    save(path, series, images, box)
    poses = matrix_from_zyz(*series.angles.T)
    return np.stack([Phantom(phantom.centre @ pose.T, phantom.sigma, phantom.weight).volume(box, pixel_size)
                     for pose in poses])


def identity_error(volumes, transfer, objects):
    """Relative rms error of exported objects against the objects filtered by their 3D CTF; one scale is fitted."""
    box = objects.shape[-1]
    inside = sphere(box, 28 / 64 * box, dtype=bool)
    axes = (1, 2, 3)
    expected = scipy.fft.irfftn(scipy.fft.rfftn(scipy.fft.ifftshift(objects, axes=axes), axes=axes) * transfer,
                                axes=axes)
    expected = scipy.fft.fftshift(expected, axes=axes)
    return relative_error(np.stack([v[inside] for v in volumes]), np.stack([v[inside] for v in expected]))


def relative_error(found, exact):
    """Rms of the difference over the rms of the exact values, after a fitted scale."""
    found, exact = found.ravel().astype(np.float64), exact.ravel().astype(np.float64)
    exact = exact * (found @ exact) / (exact @ exact)
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact ** 2)))


def grid_windows(path, box, pixel_size, tilts, seed):
    """White-noise windows of one particle, as a tilt series of that size whose axis goes through the particle.

    They are turned as our sub-tomograms want them.
    """
    rng = np.random.default_rng(seed)
    series = make_series("windows", (box, box), pixel_size, box * pixel_size, tilts, 1, rng, 1.0)
    series = replace(series, geometry=series.geometry.replace(shift=np.zeros((tilts, 2)), axis=ALONG_X))
    save(path, series, rng.standard_normal((tilts, box, box), dtype=np.float32), box, np.zeros((1, 3)))


def grid_ours(path):
    """Numerator of our gridding: windows inserted with weight 1."""
    data, geometry, _ = load(path)
    box, backend = int(data["box"]), Backend("cpu", threads=1)
    plan = setup_subtomos(geometry, None, box, box, geometry.pixel_size, backend, dose_weighting=False)
    plan = replace(plan, envelope=np.ones_like(plan.envelope))
    centre = np.full((1, geometry.n_tilts, 2), box // 2, np.float64)
    nothing = np.zeros((1, geometry.n_tilts))
    return reconstruct_subtomos(data["images"], plan, centre, nothing, geometry.matrix[None], nothing == 0, backend,
                                correct=False)[0][0]


def grid_relion(path):
    """Numerator of RELION 5's gridding as our engine has it; its windows are half as large again and hold no more."""
    data, geometry, _ = load(path)
    box, backend = int(data["box"]), Backend("cpu", threads=1)
    big = int(1.5 * box)
    margin = (big - box) // 2
    images = np.pad(data["images"], ((0, 0), (margin, margin), (margin, margin)))
    plan = setup_pseudosubtomos(geometry, None, big, box, geometry.pixel_size, 1.0, backend, invert=False, circle=False)
    centre = np.full((1, geometry.n_tilts, 2), big // 2, np.float64)
    nothing = np.zeros((1, geometry.n_tilts))
    return extract_volumes(images, plan, centre, nothing, geometry.matrix[None], nothing == 0, backend)[0][0]


def exact_sum(path, voxel, size):
    """What gridding stands for: the trigonometric sum over all samples of the windows, padded to `size`.

    `voxel` `(V, 3)`: xyz in voxels from the centre; returns `(V,)`.
    """
    data, geometry, _ = load(path)
    box = int(data["box"])
    pad = (size - box) // 2
    windows = np.pad(data["images"], ((0, 0), (pad, pad), (pad, pad)))
    samples = scipy.fft.rfft2(scipy.fft.ifftshift(windows, axes=(1, 2)).astype(np.float64))
    ky, kx = np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1)
    samples *= np.where(kx == 0, 1, 2) * (kx ** 2 + ky[:, None] ** 2 < size ** 2 / 4)
    total = np.zeros(len(voxel))
    for matrix, sample in zip(geometry.matrix, samples):
        x, y = 2 * np.pi / size * (matrix @ voxel.T)
        total += np.einsum("vx,vx->v", np.exp(1j * y[:, None] * ky) @ sample, np.exp(1j * x[:, None] * kx)).real
    return total


def gridding_errors(folder, peer, args):
    """Error of the numerator within radius 28 of 64, white noise: ours, the peer's at oversampling 2 and 1."""
    path = folder / "windows.npz"
    grid_windows(path, args.box, args.pixel_size, args.tilts, 3)
    inside = np.argwhere(sphere(args.box, 28 / 64 * args.box, dtype=bool))
    chosen = inside[np.random.default_rng(0).permutation(len(inside))[:4000]]
    voxel = (chosen - args.box // 2)[:, ::-1].astype(np.float64)
    found = {"tomoexport": (grid_ours(path), args.box),
             "tomoexport, RELION 5 way": (grid_relion(path), int(1.5 * args.box))}
    for oversampling in (2, 1):
        out = folder / "grid.npz"
        run([*peer, "gridding", path, out, "--oversampling", oversampling, oversampling], args.threads)
        found["warpylib %d" % oversampling] = np.load(out)["numerator"], args.box * oversampling
    return {name: relative_error(volume[tuple(chosen.T)], exact_sum(path, voxel, size))
            for name, (volume, size) in found.items()}


def accuracy(folder, peer, args):
    """Figures beside the times."""
    result = {"gridding": gridding_errors(folder, peer, args), "identity": {}, "agreement": {}}
    known, noise, out = folder / "known.npz", folder / "few.npz", folder / "out.npz"
    objects = known_data(known, args.box, args.pixel_size, args.tilts, 5)
    volumes, transfer, *_ = export(*load(known), args.threads)
    result["identity"]["tomoexport"] = identity_error(volumes, transfer, objects)
    known_data(known, args.box, args.pixel_size, args.tilts, 5, decayed=True)
    noise_data(noise, args.shape, args.box, args.pixel_size, 8, args.tilts, 1)
    with_ctf = export(*load(noise), args.threads)
    without = export(*load(noise), args.threads, with_ctf=False)
    mask = np.broadcast_to(sphere(args.box, 28 / 64 * args.box, dtype=bool), with_ctf[0].shape)
    for name, oversampling in (("warpylib 2", (2, 2)), ("warpylib 1", (1, 1)), ("warpylib defaults", (2, 1))):
        tail = ["--oversampling", *oversampling]
        run([*peer, "subtomo", known, out, *tail], args.threads)
        theirs = np.load(out)
        result["identity"][name] = identity_error(theirs["volumes"], theirs["transfer"], objects)
        if name == "warpylib defaults":  # volumes and 3D CTFs have been compared one by one
            continue
        run([*peer, "subtomo", noise, out, *tail], args.threads)
        theirs = np.load(out)
        agreement = {"volume": correlation(with_ctf[0], theirs["volumes"], mask),
                     "3D CTF": correlation(with_ctf[1], theirs["transfer"])}
        run([*peer, "subtomo", noise, out, *tail, "--no-ctf"], args.threads)
        theirs = np.load(out)
        agreement["volume without CTF"] = correlation(without[0], theirs["volumes"], mask)
        per_particle = [shells(a * m, b * m) for a, b, m in zip(without[0], theirs["volumes"], mask)]
        agreement["shells without CTF"] = np.mean(per_particle, axis=0).tolist()
        result["agreement"][name] = agreement
    return result


def worker(path, threads, repeats):
    """One timed run of our side, in a process of its own."""
    data, geometry, ctf = load(path)
    count, out = repeats * len(data["position"]), {}
    for name, relion in (("per_particle", False), ("relion", True)):
        _, _, seconds, turn, out["plan " + name] = export(data, geometry, ctf, threads, repeats=repeats, relion=relion)
        out["turn " + name] = turn / SERIES
        out[name] = seconds / count + turn / SERIES
    print(json.dumps(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--pixel-size", type=float, default=5.4)
    parser.add_argument("--shape", type=int, nargs=2, default=(928, 960), metavar=("H", "W"))
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--particles", type=int, default=8, help="of the peer in one run")
    parser.add_argument("--repeats", type=int, default=16, help="our side does as many times more")
    parser.add_argument("--batch", type=int, default=1, help="particles of one call of the peer")
    parser.add_argument("--no-accuracy", dest="accuracy", action="store_false")
    parser.add_argument("--json", help="write the figures here as well")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.threads, args.repeats)
    peer = [peer_python(), HERE / "peer_warpylib.py", "--threads", args.threads, "--batch", args.batch]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, out = folder / "data.npz", folder / "out.npz"
        noise_data(data, args.shape, args.box, args.pixel_size, args.particles, args.tilts, 1)
        ours = [sys.executable, __file__, "--worker", data, "--threads", args.threads, "--repeats", args.repeats]
        pairs = alternate(ours, {str(o): [*peer, "subtomo", data, out, "--oversampling", o, o] for o in (2, 1)},
                          args.pairs, args.threads)
        figures = accuracy(folder, peer, args) if args.accuracy else {}
    summary = report(pairs, args.particles)
    for name, values in figures.items():
        print("\n%s: %s" % (name, json.dumps(values)))
    finish(args.json, dict(machine=machine(), versions=pairs["2"][0][1]["versions"], arguments=vars(args),
                           summary=summary, pairs=pairs, accuracy=figures))


def report(pairs, particles):
    """Print the table; medians as a dict."""
    rows, summary = [], {}
    for name, key in (("tomoexport", "per_particle"), ("tomoexport, RELION 5 way", "relion")):
        own = [mine[key] * 1e3 for found in pairs.values() for mine, _ in found]
        rows.append([name, "", "", middle(own), "", ""])
        summary[name] = statistics.median(own)
    # The defaults of the peer's two functions differ: 2 for volumes, 1 for 3D CTFs.
    for name, volume, transfer in (("warpylib 2", "2", "2"), ("warpylib 1", "1", "1"), ("warpylib defaults", "2", "1")):
        ms = [[theirs["seconds"][i] / particles * 1e3 for _, theirs in pairs[which]]
              for i, which in enumerate((volume, transfer))]
        total = [a + b for a, b in zip(*ms)]
        ratios = [[t / (m[key] * 1e3) for t, (m, _) in zip(total, pairs[volume])] for key in ("per_particle", "relion")]
        rows.append([name, middle(ms[0]), middle(ms[1]), middle(total)] + [middle(ratio) for ratio in ratios])
        summary[name] = dict(ms=statistics.median(total), ratio=statistics.median(ratios[0]),
                             ratio_relion=statistics.median(ratios[1]))
    table(["ms per particle, median (range)", "volume", "3D CTF", "both", "over tomoexport", "over its RELION 5 way"],
          rows)
    loads = [one["load"] for found in pairs.values() for pair in found for one in pair]
    print("\nload before each run: %s" % middle(loads))
    return summary


if __name__ == "__main__":
    main()
