"""The demonstration: simulate two tilt series and take them through the whole chain in a Scipion project.

Run by `make demo`; by hand: tools/with-env python -m scipion python tools/demo.py [FOLDER]
"""

import logging
import os
import shutil
import sys
import time

import numpy as np
from pyworkflow.project import Manager

from tomoexport.engine.average import fsc, resolution
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.io import mrc
from tomoexport.jobs import report, runner, simulate
from tomoexport.protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImportParticles,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportReconstruct,
    ProtTomoExportSubtomos,
)

PROJECT = "tomoexport_demo"
TOMOGRAM_PIXEL, PIXEL, BOX, DIAMETER = 12.0, 4.0, 64, 180.0


def launch(project, protocol_class, label, **values):
    """Run a protocol; a tuple (protocol, output) connects an input with an output."""
    start = time.time()
    pointers = {k: v for k, v in values.items() if isinstance(v, tuple)}
    protocol = project.newProtocol(protocol_class, objLabel=label,
                                   **{k: v for k, v in values.items() if k not in pointers})
    for name, (source, output) in pointers.items():
        getattr(protocol, name).set(source)
        getattr(protocol, name).setExtended(output)
    errors = protocol.validate()
    if errors:
        sys.exit("%s: %s" % (label, "; ".join(errors)))
    project.launchProtocol(protocol, wait=True)
    if not protocol.isFinished():
        sys.exit("%s failed: %s\n%s" % (label, protocol.getErrorMessage(), "\n".join(protocol.getLogsLastLines(40))))
    say("%s: %.0f s" % (label, time.time() - start))
    return protocol


def say(text):
    """Print at once, also into a log."""
    print(text, flush=True)


def main(folder):
    """Run the demonstration; its data and picture go into ``folder``."""
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")
    begin = time.time()
    folder = os.path.abspath(folder)
    data = os.path.join(folder, "data")
    shutil.rmtree(data, ignore_errors=True)
    runner.run({"verb": "simulate", "options": {"output": data, "preset": "demo"}})
    preset = simulate.PRESETS["demo"]
    phantom = chiral_phantom(preset["diameter"], preset["blobs"])
    known = phantom.volume(BOX, PIXEL)
    reference = os.path.join(data, "phantom_%gA.mrc" % PIXEL)
    mrc.write(reference, known, PIXEL)
    say("simulated two tilt series of 41 tilts, %d particles each: %.0f s" % (preset["particles"], time.time() - begin))

    manager = Manager()
    if manager.hasProject(PROJECT):
        manager.deleteProject(PROJECT)
    project = manager.createProject(PROJECT)
    os.chdir(project.path)
    imported = launch(project, ProtTomoExportImportTiltSeries, "import tilt series",
                      tomogramsStar=os.path.join(data, "tomograms.star"))
    inputs = dict(inputTiltSeries=(imported, "TiltSeries"), inputCtfs=(imported, "CTFs"))
    tomograms = launch(
        project, ProtTomoExportReconstruct, "reconstruct tomograms", pixelSize=TOMOGRAM_PIXEL, halves=True, **inputs
    )
    particles = launch(project, ProtTomoExportImportParticles, "import particles",
                       filesPath=os.path.join(data, "particles.star"), inputTomograms=(tomograms, "Tomograms"),
                       boxSize=int(DIAMETER / TOMOGRAM_PIXEL))
    subtomos = launch(project, ProtTomoExportSubtomos, "export sub-tomograms", pixelSize=PIXEL, box=BOX,
                      diameter=DIAMETER, inputCoordinates=(particles, "Coordinates"), **inputs)
    average = launch(project, ProtTomoExportAverage, "average sub-tomograms", reference=reference,
                     inputSubtomograms=(subtomos, "Subtomograms"))

    volume, _ = mrc.read_volume(average.Average.getFileName())
    halves = [mrc.read_volume(path)[0] for path in average.Average.getHalfMaps(asList=True)]
    radius = phantom.diameter / 2 / PIXEL
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    curves = {"average against the phantom": fsc(volume, known, radius), "half maps": fsc(*halves, radius)}
    first = tomograms.Tomograms.getFirstItem()
    files = [s.getFileName() for s in subtomos.Subtomograms.iterItems()]
    picture = os.path.join(folder, "overview.png")
    report.overview(first.getFileName(), TOMOGRAM_PIXEL, files, volume, PIXEL,
                    {name: (frequency, curve) for name, curve in curves.items()}, picture,
                    "tomoexport: from tilt series to an averaged particle")
    truth = curves["average against the phantom"]
    shell = BOX // 4
    say("")
    say("Project       %s" % project.path)
    say("Open it with  tools/scipion3 project %s" % PROJECT)
    say("FSC           %.3f at half Nyquist (%.0f A); 0.5 is reached at %.1f A"
        % (truth[shell], 4 * PIXEL, resolution(truth, BOX, PIXEL, 0.5)))
    say("Picture       %s" % picture)
    say("Took          %.0f s" % (time.time() - begin))
    if truth[shell] < 0.5:
        sys.exit("The average does not look like the phantom.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                                            "demo"))
