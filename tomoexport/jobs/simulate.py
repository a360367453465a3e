"""Make a data set with a known truth: the demonstration, and what most tests run on."""

import os

import numpy as np

from ..engine.ctf import Optics
from ..engine.particles import ParticleSet
from ..engine.phantom import chiral_phantom
from ..engine.poses import matrix_from_zyz
from ..engine.simulate import make_series, simulate_series
from ..io import atomic, mrc, particlestar, relion5
from ..io.tiltseries import TiltSeries
from ..options import affecting
from .plan import Plan, Unit
from .progress import Progress

#: Per preset: pixel size (A), particle diameter (A), noise, particles, number of blobs, and one dict per series.
PRESETS = {
    "demo": dict(pixel_size=3.0, diameter=160.0, noise=2.0, particles=90, blobs=24, series=(
        dict(ts_id="TS_01", image_shape=(400, 480), thickness=2400.0, n_tilts=41, hand=-1, axis=85.0),
        dict(ts_id="TS_02", image_shape=(480, 432), thickness=2400.0, n_tilts=41, hand=1, axis=-4.0, xtilt=2.5,
             defocus=26000.0))),
    "tiny": dict(pixel_size=8.0, diameter=140.0, noise=1.0, particles=4, blobs=8, series=(
        dict(ts_id="TS_01", image_shape=(64, 64), thickness=240.0, n_tilts=3, step=20.0, hand=-1, axis=85.0),
        dict(ts_id="TS_02", image_shape=(72, 64), thickness=240.0, n_tilts=3, step=20.0, hand=1, axis=-4.0,
             xtilt=2.5))),
    "timing": dict(pixel_size=1.35, diameter=170.0, noise=5.0, particles=1000, blobs=0, series=(
        dict(ts_id="TS_01", image_shape=(3712, 3838), thickness=2700.0, n_tilts=41, hand=-1, axis=85.0),)),
}


def plan(options, only=None):
    """Plan the simulation: a unit per tilt series of the preset; see `contract.Verb`."""
    units = []
    for one in PRESETS[options.preset]["series"]:
        unit = Unit(one["ts_id"], total_tilts=one["n_tilts"],
                    disk_bytes=4 * one["n_tilts"] * int(np.prod(one["image_shape"])))
        unit.depends = dict(affecting(options, "images"), series=one["ts_id"])
        if not only or one["ts_id"] in only:
            units.append(unit)
    return Plan("simulate", options, units, [], memory_bytes=3 * max((u.disk_bytes for u in units), default=0))


def make(options, ts_id):
    """Draw the truth of one series.

    Parameters
    ----------
    options : SimulateOptions
    ts_id : str

    Returns
    -------
    series : SimulatedSeries
    phantom : Phantom
    rng : numpy.random.Generator
        In the state in which the noise is drawn.
    """
    preset = PRESETS[options.preset]
    index, one = next((i, s) for i, s in enumerate(preset["series"]) if s["ts_id"] == ts_id)
    rng = np.random.default_rng([options.seed, index])
    arguments = dict(one, pixel_size=preset["pixel_size"], diameter=preset["diameter"], optics=Optics(),
                     n_particles=options.particles or preset["particles"], rng=rng)
    return make_series(**arguments), chiral_phantom(preset["diameter"], max(preset["blobs"], 1)), rng


def execute(unit, options, backend):
    """Simulate one series, and write its stack; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``stack`` (path), ``signal_sd``, ``noise`` (in units of it), ``notes``, ``files``.
    """
    preset = PRESETS[options.preset]
    series, phantom, rng = make(options, unit.name)
    noise = options.noise if options.noise >= 0 else preset["noise"]
    progress = Progress(unit.name, series.geometry.n_tilts, "tilts")
    g = series.geometry
    path = os.path.join(options.output, "tiltseries", unit.name + ".mrcs")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if preset["blobs"]:
        images, sd = simulate_series(series, phantom, noise, rng, progress)
        mrc.write(path, images, g.pixel_size, kind="stack", label="tomoexport simulate")
    else:  # only the time matters: noise, an image at a time
        sd = 1.0
        with mrc.VolumeWriter(path, (g.n_tilts,) + g.image_shape, g.pixel_size, kind="stack") as writer:
            for t in range(g.n_tilts):
                writer.put(t, rng.standard_normal((1,) + g.image_shape, dtype=np.float32))
                progress()
    progress.finish()
    return {"stack": path, "signal_sd": sd, "noise": noise, "files": [path], "notes": []}


def collect(options, results):
    """Write the tables, the phantom and the truth, which follow from the options; see `contract.Verb`.

    Returns
    -------
    dict
        Paths of ``tomograms`` and ``particles``.
    """
    preset = PRESETS[options.preset]
    listed, rows, truth = [], [], {}
    made = {r["ts_id"] for r in results if r["status"] != "failed"}
    for one in preset["series"]:
        if one["ts_id"] not in made:
            continue
        series, phantom, _ = make(options, one["ts_id"])
        g = series.geometry
        path = os.path.abspath(os.path.join(options.output, "tiltseries", one["ts_id"] + ".mrcs"))
        listed.append(TiltSeries(g, series.ctf, tuple((path, t) for t in range(g.n_tilts)), optics_group="optics1",
                                 optics=series.ctf.optics))
        rows.append((one["ts_id"], series))
        truth[one["ts_id"]] = {"position": series.position.tolist(), "angles": series.angles.tolist()}
    atomic.write_json(os.path.join(options.output, "truth.json"), truth)
    if preset["blobs"]:
        side = 2 * int(np.ceil(0.75 * phantom.diameter / preset["pixel_size"]))
        mrc.write(os.path.join(options.output, "phantom.mrc"), phantom.volume(side, preset["pixel_size"]),
                  preset["pixel_size"])
    particlestar.write_particles(os.path.join(options.output, "particles.star"), true_particles(rows))
    tomograms = relion5.write_project(options.output, listed)
    return {"tomograms": tomograms, "particles": os.path.join(options.output, "particles.star")}


def true_particles(rows):
    """Particle set of simulated series, in two random halves.

    Parameters
    ----------
    rows : list of (str, SimulatedSeries)

    Returns
    -------
    ParticleSet
    """
    angles = np.concatenate([s.angles for _, s in rows])
    uid = tuple("%s/%d" % (name, i + 1) for name, s in rows for i in range(len(s.position)))
    return ParticleSet(np.concatenate([s.position for _, s in rows]), matrix_from_zyz(*angles.T),
                       np.repeat(np.arange(len(rows)), [len(s.position) for _, s in rows]), tuple(n for n, _ in rows),
                       uid, {"rlnRandomSubset": [str(1 + i % 2) for i in range(len(uid))]})
