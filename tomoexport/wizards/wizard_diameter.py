"""The diameter of the particle, drawn on a picture of the mean one."""

import tkinter

from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from pyworkflow.gui import dialog

from ..convert import proposals
from ..protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportReconstructParticle,
    ProtTomoExportSubtomos,
)
from .wizard_base import TomoExportWizard, particles


class DiameterDialog(dialog.Dialog):
    """A picture, a circle on it, and a slider for its diameter.

    Parameters
    ----------
    parent : tkinter widget
    picture : ndarray `(n, n)`
    pixel_size : float
        Angstrom.
    diameter : float
        Angstrom, to begin with.
    """

    def __init__(self, parent, picture, pixel_size, diameter):
        self._picture, self._pixel_size, self.diameter = picture, pixel_size, diameter
        super().__init__(parent, "Particle diameter")

    def body(self, bodyFrame):
        """Draw it; see `pyworkflow.gui.dialog.Dialog`."""
        side = len(self._picture) * self._pixel_size
        figure = Figure((4.5, 4.5))
        axes = figure.add_axes((0.12, 0.1, 0.85, 0.85))
        axes.imshow(self._picture, cmap="gray", origin="lower", extent=(-side / 2, side / 2) * 2)
        axes.set_xlabel("Å")
        self._circle = axes.add_patch(Circle((0, 0), self.diameter / 2, fill=False, color="tab:orange", lw=1.6))
        self._canvas = FigureCanvasTkAgg(figure, bodyFrame)
        self._canvas.get_tk_widget().grid(row=0, column=0, padx=5, pady=5)
        self._slider = tkinter.Scale(bodyFrame, from_=self._pixel_size * 2, to=side, orient="horizontal", length=420,
                                     resolution=max(1.0, round(self._pixel_size)), label="Diameter (Å)",
                                     command=self._move)
        self._slider.set(self.diameter)
        self._slider.grid(row=1, column=0)
        self._canvas.draw()

    def _move(self, value):
        self.diameter = float(value)
        self._circle.set_radius(self.diameter / 2)
        self._canvas.draw_idle()


class TomoExportDiameterWizard(TomoExportWizard):
    """A circle on the mean of sub-tomograms, or of crops from the tomograms."""

    _targets = [(kind, ["diameter"]) for kind in (ProtTomoExportSubtomos, ProtTomoExportImageSeries,
                                                  ProtTomoExportReconstructParticle, ProtTomoExportAverage)]
    TITLE = "Particle diameter"

    def _needs(self, protocol):
        return [particles(protocol)]

    def _ask(self, form):
        protocol = form.protocol
        given = protocol.diameter.get() or 0.0
        picture, pixel_size = proposals.mean_of_particles(getattr(protocol, particles(protocol)).get(), given)
        asked = DiameterDialog(form.root, picture, pixel_size, given or len(picture) * pixel_size / 2)
        if asked.resultYes():
            form.setVar("diameter", round(asked.diameter, 1))
