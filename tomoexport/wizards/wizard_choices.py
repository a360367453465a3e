"""Wands that list values: pixel sizes, boxes, sizes of tomograms, tilt series, scores, tolerances."""

from ..convert import positions, proposals, subsets
from ..convert.from_scipion import THICKNESS
from ..errors import InputError
from ..protocols import (
    ProtTomoExportImageSeries,
    ProtTomoExportIntersect,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstruct,
    ProtTomoExportReconstructParticle,
    ProtTomoExportRemoveDuplicates,
    ProtTomoExportSelect,
    ProtTomoExportSubtomos,
)
from .wizard_base import TomoExportWizard, ctfs, particles, tilt_series

SIZED = (ProtTomoExportSubtomos, ProtTomoExportImageSeries)
BINNED = (ProtTomoExportPseudoSubtomos, ProtTomoExportReconstructParticle)


def _coordinates(protocol):
    """Coordinates of the particles that were chosen, if some were."""
    name = particles(protocol)
    items = getattr(protocol, name).get() if name else None
    return None if items is None else subsets.coordinates(items)


class TomoExportPixelSizeWizard(TomoExportWizard):
    """Bins of the tilt series, and the pixel size of the tomograms."""

    _targets = [(kind, ["pixelSize"]) for kind in (ProtTomoExportReconstruct, *SIZED)]
    TITLE = "Pixel size"

    def _needs(self, protocol):
        return [tilt_series(protocol)]

    def _proposals(self, protocol):
        return proposals.pixel_sizes(getattr(protocol, tilt_series(protocol)).get(), _coordinates(protocol))


class TomoExportBinningWizard(TomoExportPixelSizeWizard):
    """The same as a factor."""

    _targets = [(kind, ["binningFactor"]) for kind in BINNED]
    TITLE = "Binning factor"

    def _proposals(self, protocol):
        return proposals.binnings(getattr(protocol, tilt_series(protocol)).get(), _coordinates(protocol))


class TomoExportBoxWizard(TomoExportWizard):
    """Boxes with fast transforms that hold the particle, or its CTF without aliasing as well."""

    _targets = [(kind, ["box"]) for kind in SIZED] + [(kind, ["boxSize"]) for kind in BINNED]
    TITLE = "Box size"

    def _needs(self, protocol):
        return [particles(protocol), tilt_series(protocol)]

    def _proposals(self, protocol):
        series, picked = getattr(protocol, tilt_series(protocol)).get(), _coordinates(protocol)
        if type(protocol) in BINNED:
            pixel_size = series.getSamplingRate() * (protocol.binningFactor.get() or 1.0)
        else:
            pixel_size = protocol.pixelSize.get()
        if not pixel_size:
            raise InputError("Box size", "the pixel size is not known", "Choose it first; its wand proposes some")
        diameter = protocol.diameter.get() if protocol.getParam("diameter") is not None else 0
        if not diameter and picked is not None and picked.getBoxSize():
            # As large as particles are shown.
            diameter = picked.getBoxSize() * picked.getSamplingRate()
        if not diameter:
            raise InputError("Box size", "the diameter of the particle is not known", "Give it first")
        ctf = getattr(protocol, ctfs(protocol)).get()
        return proposals.boxes(pixel_size, diameter, series if ctf is not None else None, ctf, THICKNESS / 2)


class TomoExportCropWizard(TomoExportBoxWizard):
    """Boxes that hold the particle: to these, images are cropped when the CTF has been applied."""

    _targets = [(kind, ["croppedBoxSize"]) for kind in BINNED]
    TITLE = "Cropped box size"

    def _proposals(self, protocol):
        box = protocol.boxSize.get()
        found = [one for one in super()._proposals(protocol) if not box or one[0] <= box]
        if not found:
            raise InputError("Cropped box size", "the box of %d px does not hold the particle" % box,
                             "Choose a larger box")
        return found


class TomoExportSizeWizard(TomoExportWizard):
    """Sizes that the tilt series know, or their images suggest."""

    _targets = [(ProtTomoExportReconstruct, ["sizeX", "sizeY", "sizeZ"])]
    TITLE = "Size of the tomograms"

    def _needs(self, protocol):
        return ["inputTiltSeries"]

    def _proposals(self, protocol):
        return proposals.sizes(protocol.inputTiltSeries.get())

    def _write(self, form, value):
        for name, side in zip(("sizeX", "sizeY", "sizeZ"), value):
            form.setVar(name, side)

    @staticmethod
    def _line(value, text):
        return text


class TomoExportTiltSeriesWizard(TomoExportWizard):
    """Tilt series to tick, with the number of particles in them."""

    _targets = [(ProtTomoExportIntersect, ["sources"])]
    TITLE, QUESTION, SEVERAL = "Tilt series", "Tick those that are compared (Ctrl and click for several)", True

    def _needs(self, protocol):
        return ["inputOld", "inputNew"]

    def _proposals(self, protocol):
        old, new = (positions.counts(subsets.coordinates(getattr(protocol, name).get()))
                    for name in ("inputOld", "inputNew"))
        return [(name, "%d old, %d new particles" % (old.get(name, 0), new.get(name, 0)))
                for name in sorted(set(old) | set(new))]

    def _write(self, form, value):
        form.setVar("sources", ", ".join(value))


class TomoExportScoreWizard(TomoExportWizard):
    """Columns of the particles that are numbers."""

    _targets = [(ProtTomoExportRemoveDuplicates, ["score"])]
    TITLE = "Score"

    def _needs(self, protocol):
        return ["inputParticles"]

    def _proposals(self, protocol):
        return proposals.score_columns(protocol.inputParticles.get())


class TomoExportToleranceWizard(TomoExportWizard):
    """Gaps in the distribution of distances."""

    _targets = [(ProtTomoExportIntersect, ["tolerance"]), (ProtTomoExportRemoveDuplicates, ["distance"]),
                (ProtTomoExportSelect, ["tolerance"])]
    TITLE = "Tolerance"

    def _needs(self, protocol):
        return ["inputOld", "inputNew"] if isinstance(protocol, ProtTomoExportIntersect) else ["inputParticles"]

    def _proposals(self, protocol):
        sets = [getattr(protocol, name).get() for name in self._needs(protocol)]
        found = proposals.tolerances(*sets)
        if isinstance(protocol, ProtTomoExportIntersect):
            counts = proposals.counter(*sets)
            return [(value, "%s: %d only old, %d both, %d only new" % (text, *counts(value)))
                    for value, text in found]
        return found
