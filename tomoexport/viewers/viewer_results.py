"""The report of a run, and the way from there to Scipion's own viewers."""

import glob
import os

from matplotlib.image import imread
from pwem import Domain
from pwem.objects import Volume
from pwem.viewers import EmPlotter
from pyworkflow.protocol import EnumParam, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer
from tomo.objects import SetOfSubTomograms, SetOfTomograms

from ..convert import proposals
from ..protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportImportParticles,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportIntersect,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstruct,
    ProtTomoExportReconstructParticle,
    ProtTomoExportRemoveDuplicates,
    ProtTomoExportSelect,
    ProtTomoExportSubtomos,
)
from . import pictures, scenes

# Windows that are opened at once.
MOST = 8
TITLES = {"overview": "Overview", "montage": "Sub-tomograms", "fsc": "Fourier shell correlation",
          "average": "Average", "particles_per_tomogram": "Particles per tomogram",
          "tilts_per_particle": "Tilts per particle", "tilt_series": "Defocus and dose",
          "distances": "Distances between particles"}


def reportFigures(protocol):
    """Find the figures of a run.

    Returns
    -------
    list of (str, str)
        Title and path, in the order of `TITLES`, then slices by the name of the tomogram.
    """
    paths = glob.glob(protocol._getExtraPath("report", "*.png"))
    stems = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    known = [stem for stem in TITLES if stem in stems]
    return [(TITLES.get(stem, stem.replace("_", " ")), stems[stem])
            for stem in known + sorted(set(stems) - set(known))]


def volumesOf(output):
    """Files of the volumes of an output; those of stacks and curves are none.

    Parameters
    ----------
    output : pyworkflow.object.Object

    Returns
    -------
    list of str
        The first one of a set.
    """
    item = output.getFirstItem() if isinstance(output, (SetOfTomograms, SetOfSubTomograms)) else output
    if not isinstance(item, Volume) or not item.getFileName():
        return []
    path = item.getFileName()
    return [path] if os.path.isfile(path) else []


class TomoExportResultsViewer(ProtocolViewer):
    """Show the report figures with matplotlib, and open outputs in the viewers that Scipion has for them."""

    _label = "report"
    _targets = [ProtTomoExportImportTiltSeries, ProtTomoExportReconstruct, ProtTomoExportImportParticles,
                ProtTomoExportSubtomos, ProtTomoExportImageSeries, ProtTomoExportPseudoSubtomos, ProtTomoExportAverage,
                ProtTomoExportReconstructParticle, ProtTomoExportIntersect, ProtTomoExportRemoveDuplicates,
                ProtTomoExportSelect]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form):
        figures = reportFigures(self.protocol)
        form.addSection("Report")
        if figures:
            form.addParam("showAll", LabelParam, label="All figures", help="Open the figures of the report, the first "
                          "%d at most." % MOST)
            form.addParam("figure", EnumParam, default=0, choices=[title for title, _ in figures], label="Figure",
                          help="Figure of the report to open. They are PNG files in extra/report of the run.")
        else:
            form.addParam("nothing", LabelParam, label="There are no figures yet", help="Figures are drawn when the "
                          "run has worked on all tilt series.")
        self._defineParticles(form)
        form.addSection("Outputs")
        for name, output in self.protocol.iterOutputAttributes():
            if volumesOf(output):
                form.addParam("slices" + name, LabelParam, label="Slices of %s" % name, help="Sections of the first "
                              "volume, with a slider.")
            form.addParam("open" + name, LabelParam, label="Open %s" % name, help="Open %s in the viewer that Scipion "
                          "has for it." % output)

    def _defineParticles(self, form):
        """Add what shows particles, for protocols that have some."""
        names = scenes.names(self.protocol)
        if not names:
            return
        form.addSection("Particles")
        form.addParam("onTiltSeries", EnumParam, default=0, choices=names, label="Tilt series", help="Show its "
                      "particles on a slab of the tomogram and on the least tilted image: circles of the particle's "
                      "diameter, coloured by depth; dashed ones were dropped.")
        if isinstance(self.protocol, ProtTomoExportIntersect):
            form.addParam("moveTolerance", LabelParam, label="Tolerance", help="The histogram of distances with a line "
                          "that can be moved, and how many particles are in each of the three sets then.")

    def _getVisualizeDict(self):
        actions = {"showAll": self._showAll, "figure": self._showFigure, "onTiltSeries": self._showParticles,
                   "moveTolerance": self._showTolerance}
        for name, output in self.protocol.iterOutputAttributes():
            actions["slices" + name] = lambda paramName=None, output=output, name=name: self._showSlices(output, name)
            actions["open" + name] = lambda paramName=None, output=output: self._open(output)
        return actions

    def _showAll(self, paramName=None):
        return [self._plot(*figure) for figure in reportFigures(self.protocol)[:MOST]]

    def _showFigure(self, paramName=None):
        return [self._plot(*reportFigures(self.protocol)[self.figure.get()])]

    def _showParticles(self, paramName=None):
        name = scenes.names(self.protocol)[self.onTiltSeries.get()]
        return [self._movable(pictures.Particles, "Particles of " + name, (11, 6), scenes.scene(self.protocol, name))]

    def _showTolerance(self, paramName=None):
        old, new = (getattr(self.protocol, name).get() for name in ("inputOld", "inputNew"))
        return [self._movable(pictures.Tolerance, "Tolerance", (7, 4.5), proposals.distances(old, new),
                              self.protocol.tolerance.get(), proposals.counter(old, new))]

    def _showSlices(self, output, name):
        path = volumesOf(output)[0]
        return [self._movable(pictures.Slices, "Slices of " + name, (7, 7), path, os.path.basename(path))]

    def _movable(self, kind, title, size, *arguments):
        """A window with a picture that can be moved; the picture must be kept, or it moves no longer."""
        plotter = EmPlotter(x=1, y=1, windowTitle=title, figsize=size)
        plotter.tightLayoutOn = False
        plotter.picture = kind(plotter.getFigure(), *arguments)
        return plotter

    @staticmethod
    def _plot(title, path):
        image = imread(path)
        height, width = image.shape[:2]
        plotter = EmPlotter(x=1, y=1, windowTitle=title, figsize=(width / 110.0, height / 110.0))
        plotter.tightLayoutOn = False
        figure = plotter.getFigure()
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(image)
        axes.set_axis_off()
        return plotter

    def _open(self, output):
        """Open an output with the viewer that Scipion prefers for it."""
        for viewer in Domain.findViewers(output, DESKTOP_TKINTER):
            viewer(project=self.getProject(), protocol=self.protocol, parent=self.formWindow).visualize(
                output, windows=self.formWindow)
            return []
        return [self.infoMessage("Scipion has no viewer for %s." % output, "No viewer")]
