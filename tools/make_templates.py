"""Make the workflow templates of `tomoexport/templates`.

    tools/with-env python -m scipion python tools/make_templates.py

Every workflow is built of real protocols, so that a parameter or an output that does not exist fails here; what is
written are the values that are not a form's default, the pointers, and the fields that Scipion asks before it loads it.
Needs scipion-em-imod, scipion-em-relion and scipion-em-reliontomo.
"""
import json
import os
import sys

import pyworkflow
from pyworkflow.project import Manager

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tomoexport", "templates")
TEXT, PATH, INTEGER, DECIMAL = 0, 2, 3, 4  # pyworkflow.template.VarTypes


def field(title, default, kind, alias):
    """A value that Scipion asks for."""
    return "~%s|%s|%d|%s~" % (title, default, kind, alias)


class Workflow:
    """Protocols in the order in which they are added; a pointer is a pair of a key and the name of an output."""

    def __init__(self, project):
        self._project, self._made, self._entries = project, {}, []
        self._known = pyworkflow.Config.getDomain().getProtocols()

    def add(self, key, name, label, **values):
        """Add a protocol by the name of its class; `key` is what others call it."""
        protocol = self._project.newProtocol(self._known[name])
        number = str(len(self._made) + 1)
        entry = {"object.className": name, "object.id": number, "object.label": label}
        for parameter, value in values.items():
            attribute = getattr(protocol, parameter)
            if attribute.isPointer():
                source, output = value
                kinds = self._made[source][1]._possibleOutputs
                names = set(kinds) if isinstance(kinds, dict) else {kind.name for kind in kinds}
                assert output in names, (label, parameter, value, names)
                entry[parameter] = "%s.%s" % (self._made[source][0], output)
            else:
                assert protocol.getParam(parameter) is not None, (name, parameter)
                entry[parameter] = value
        self._made[key] = (number, protocol)
        self._entries.append(entry)

    def write(self, name, description):
        """Write the template; a description is one line."""
        path = os.path.join(FOLDER, name + ".json.template")
        assert "[" not in description
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            text = json.dumps(self._entries)
            titles = [part.split("|")[0] for part in text.split("~")[1::2]]
            assert len(set(titles)) == len(titles), titles  # Scipion fills in the last of one title alone
            file.write(description + "\n" + json.dumps(self._entries, indent=1) + "\n")
        print(path)


def tutorial(flow, batches, data):
    """The HIV-1 capsid: alignment by IMOD, refinement by RELION, and what lies between."""
    flow.add("raw", "ProtImportTs", "import tilt series", filesPattern="*.mdoc", filesPath=field(
        "Folder of the tilt series", data, PATH, "data"), voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1)
    flow.add("clean", "ProtImodXraysEraser", "X-rays eraser", inputSetOfTiltSeries=("raw", "outputTiltSeries"))
    flow.add("dose", "ProtImodDoseFilter", "dose filter, for the alignment", inputSetOfTiltSeries=(
        "clean", "TiltSeries"))
    flow.add("coarse", "ProtImodXcorrPrealignment", "coarse prealignment", inputSetOfTiltSeries=(
        "dose", "TiltSeries"))
    flow.add("beads", "ProtImodFiducialModel", "fiducial model", inputSetOfTiltSeries=("coarse", "TiltSeries"))
    flow.add("fine", "ProtImodFiducialAlignment", "fiducial alignment",
             inputSetOfLandmarkModels=("beads", "FiducialModelGaps"))
    # The dose filter weights by dose already: the alignment goes to the images before it.
    flow.add("aligned", "ProtAssignTransformationMatrixTiltSeries", "alignment onto the unfiltered series",
             getTMSetOfTiltSeries=("fine", "TiltSeries"), setTMSetOfTiltSeries=("clean", "TiltSeries"))
    flow.add("ctf", "ProtImodAutomaticCtfEstimation", "CTF", inputSetOfTiltSeries=("clean", "TiltSeries"))
    series = dict(inputTiltSeries=("aligned", "tiltSeries"), inputCtfs=("ctf", "CTFTomoSeries"))
    flow.add("tomograms", "ProtTomoExportReconstruct", "tomograms, CTF corrected", pixelSize=field(
        "Pixel size of the tomograms (A)", "10.8", DECIMAL, "pixel"), sizeZ=1200, **series)
    flow.add("picked", "ProtImportCoordinates3DFromScipion", "coordinates of the tutorial", boxSize=54,
             sqliteFile=field("Coordinates (sqlite)", data, PATH, "coordinates"), importTomograms=(
                 "tomograms", "Tomograms"))
    chain(flow, ("picked", "coordinates"), ("aligned", "tiltSeries"), ("ctf", "CTFTomoSeries"))
    sta = dict(symmetry="C6")
    flow.add("initial", "ProtRelionDeNovoInitialModel", "initial model", inReParticles=("bin6 3d", "relionParticles"),
             maskDiameter=350, nVdamMiniBatches=batches, priorWidthTiltAngle=10, **sta)
    flow.add("refined", "ProtRelionRefineSubtomograms", "auto-refine at bin 6", maskDiameter=500, inReParticles=(
        "bin6", "relionParticles"), referenceVolume=("initial", "average"), **sta)
    flow.add("bin2", "ProtTomoExportPseudoSubtomos", "refined particles again at bin 2", binningFactor=2.0, boxSize=256,
             croppedBoxSize=128, inReParticles=("refined", "relionParticles"))
    flow.add("map2", "ProtTomoExportReconstructParticle", "map at bin 2", binningFactor=2.0, boxSize=256,
             croppedBoxSize=128, inReParticles=("refined", "relionParticles"), **sta)
    flow.add("mask", "ProtRelionCreateMask3D", "mask", inputVolume=("map2", "Average"))
    flow.add("refined2", "ProtRelionRefineSubtomograms", "auto-refine at bin 2", maskDiameter=500, inReParticles=(
        "bin2", "relionParticles"), referenceVolume=("map2", "Average"), solventMask=("mask", "outputMask"), **sta)
    # Dense picking and refinement leave several particles in one place; the map is centred on the way.
    flow.add("single", "ProtTomoExportRemoveDuplicates", "remove duplicates", distance=20.0, inputParticles=(
        "refined2", "relionParticles"))
    flow.add("centred", "ProtTomoExportPseudoSubtomos", "again, centred along z", binningFactor=2.0, boxSize=256,
             croppedBoxSize=128, inReParticles=("single", "Subtomograms"), shiftZ=field(
                 "Shift along z that centres the map (A)", "0", DECIMAL, "shift"))
    flow.add("map", "ProtTomoExportReconstructParticle", "centred map", binningFactor=2.0, boxSize=256,
             croppedBoxSize=128, inReParticles=("centred", "relionParticles"), **sta)
    flow.add("last", "ProtRelionRefineSubtomograms", "last auto-refine", maskDiameter=500, inReParticles=(
        "centred", "relionParticles"), referenceVolume=("map", "Average"), solventMask=("mask", "outputMask"), **sta)
    flow.add("post", "ProtRelionPostProcess", "post-processing", inVolume=("last", "average"), solventMask=(
        "mask", "outputMask"))


def chain(flow, particles, series, ctfs):
    """Pseudo-subtomograms at bin 6, as volumes for the initial model and as stacks for refinement."""
    for key, stacks, label in (("bin6 3d", False, "3D, for the initial model"), ("bin6", True, "2D, for refinement")):
        flow.add(key, "ProtTomoExportPseudoSubtomos", "pseudo-subtomograms at bin 6: " + label, inReParticles=particles,
                 inputTS=series, inputCtfTs=ctfs, binningFactor=6.0, boxSize=128, croppedBoxSize=64, maxDose=50.0,
                 write2dStacks=stacks)


def alone(flow):
    """Without any external program, from an alignment to the map."""
    flow.add("series", "ProtTomoExportImportTiltSeries", "aligned tilt series and CTFs", tomogramsStar=field(
        "Tilt series: tomograms.star, Warp XML or IMOD .xf", "tomograms.star", PATH, "tomograms"))
    sets = dict(inputTiltSeries=("series", "TiltSeries"), inputCtfs=("series", "CTFs"))
    flow.add("tomograms", "ProtTomoExportReconstruct", "tomograms", pixelSize=field(
        "Pixel size of the tomograms (A)", "10.8", DECIMAL, "pixel"), **sets)
    flow.add("picked", "ProtTomoExportImportParticles", "particles", boxSize=54, filesPath=field(
        "Particles (STAR)", "particles.star", PATH, "particles"), inputTomograms=("tomograms", "Tomograms"))
    flow.add("single", "ProtTomoExportRemoveDuplicates", "remove duplicates", inputParticles=("picked", "Coordinates"),
             distance=field("Least distance of particles (A)", "20", DECIMAL, "distance"))
    common = dict(inReParticles=("single", "Coordinates"), inputTS=("series", "TiltSeries"),
                  inputCtfTs=("series", "CTFs"))

    def sizes(of, prefix=""):  # Scipion fills in a field of one title once
        return dict(binningFactor=field("Binning factor of " + of, "6", DECIMAL, prefix + "binning"),
                    boxSize=field("Box size of %s (binned px)" % of, "128", INTEGER, prefix + "box"),
                    croppedBoxSize=field("Cropped box size of %s (binned px)" % of, "64", INTEGER, prefix + "crop"))

    flow.add("stacks", "ProtTomoExportPseudoSubtomos", "pseudo-subtomograms: RELION 5 refines these", maxDose=50.0,
             write2dStacks=True, **sizes("the particles"), **common)
    flow.add("map", "ProtTomoExportReconstructParticle", "map with the poses that particles have", symmetry=field(
        "Symmetry", "C6", TEXT, "symmetry"), **sizes("the map", "map_"), **common)


def warp(flow):
    """Warp's export: tomograms, and sub-tomograms with their 3D CTFs, from its folder of XML files."""
    flow.add("series", "ProtTomoExportImportTiltSeries", "tilt series of Warp", tomogramsStar=field(
        "Folder of Warp's XML files", ".", PATH, "warp"))
    sets = dict(inputTiltSeries=("series", "TiltSeries"), inputCtfs=("series", "CTFs"))
    flow.add("tomograms", "ProtTomoExportReconstruct", "full tomograms", pixelSize=field(
        "Pixel size of the tomograms (A)", "10", DECIMAL, "pixel"), deconvolve=True, **sets)
    flow.add("picked", "ProtTomoExportImportParticles", "particles", boxSize=32, filesPath=field(
        "Particles (STAR)", "particles.star", PATH, "particles"), inputTomograms=("tomograms", "Tomograms"))
    flow.add("subtomos", "ProtTomoExportSubtomos", "sub-tomograms and 3D CTFs", inputCoordinates=(
        "picked", "Coordinates"), pixelSize=field("Pixel size of the sub-tomograms (A)", "4", DECIMAL, "fine"),
        box=field("Box size (px)", "64", INTEGER, "box"),
        diameter=field("Particle diameter (A)", "150", DECIMAL, "diameter"), **sets)
    flow.add("average", "ProtTomoExportAverage", "average: are signs and CTFs right?",
             inputSubtomograms=("subtomos", "Subtomograms"))


def main():
    """Make all of them."""
    os.makedirs(FOLDER, exist_ok=True)
    manager, name = Manager(), "tomoexport_templates"
    if manager.hasProject(name):
        manager.deleteProject(name)
    project = manager.createProject(name)
    for size, batches, what in (("small", 30, "reliontomo_STA_HIV_smalldataset"), ("large", 70, "EMPIAR-10164")):
        flow = Workflow(project)
        tutorial(flow, batches, "Tilt series of the HIV-1 capsid")
        flow.write("tutorial_STA_HIV_%s" % size, "Subtomogram averaging of the HIV-1 capsid, %s data set (%s), with "
                   "tomo, imod, relion and reliontomo." % (size, what))
    flow = Workflow(project)
    alone(flow)
    flow.write("tutorial_STA_HIV_without_external_programs", "From aligned tilt series to pseudo-subtomograms that "
               "RELION 5 refines, and to a map, with no external program. The values are those of the HIV-1 tutorial.")
    flow = Workflow(project)
    warp(flow)
    flow.write("warp_tomograms_and_subtomograms", "Warp's exports: full tomograms with a deconvolved version, "
               "sub-tomograms with 3D CTFs, and their average as a check, from a folder of Warp's XML files.")
    manager.deleteProject(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
