"""Pictures that can be moved: slices with a slider, particles on their tomogram and images, a histogram with a line.

Each draws on a matplotlib figure and keeps what it shows; `set` does what a slider or the mouse does.
"""

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.widgets import Slider

from ..io import mrc

# Dropped particles; kept ones are coloured by depth.
DROPPED = "#d62728"


def _grey(section):
    """Limits of grey between which a picture has its contrast."""
    low, high = np.percentile(section, (1, 99))
    return (low, high) if high > low else (low - 1, low + 1)


class Slices:
    """Sections of a volume, with a slider.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : str
        MRC file; one section at a time is read.
    title : str
    """

    def __init__(self, figure, path, title=""):
        self._stack = mrc.open_stack(path)
        self.count = len(self._stack)
        self._axes = figure.add_axes((0.06, 0.12, 0.9, 0.8))
        self._axes.set_title(title, fontsize=9)
        section = self._stack.read(self.count // 2)
        low, high = _grey(section)
        self.image = self._axes.imshow(section, cmap="gray", origin="lower", vmin=low, vmax=high)
        self.number = self.count // 2
        self.slider = Slider(figure.add_axes((0.15, 0.03, 0.7, 0.03)), "section", 0, max(self.count - 1, 1),
                             valinit=self.number, valstep=1)
        self.slider.on_changed(self.set)

    def set(self, number):
        """Show a section.

        Parameters
        ----------
        number : int
            From 0.
        """
        self.number = int(min(max(number, 0), self.count - 1))
        section = self._stack.read(self.number)
        self.image.set_data(section)
        self.image.set_clim(*_grey(section))
        self._axes.figure.canvas.draw_idle()


def circles(axes, xy, depth, kept, diameter):
    """Draw particles as circles: kept ones coloured by depth, dropped ones dashed.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    xy : ndarray `(N, 2)`
        In the axes' unit.
    depth : ndarray `(N,)`
        Angstrom.
    kept : ndarray `(N,)` of bool
    diameter : float
        In the axes' unit.

    Returns
    -------
    list of matplotlib.collections.EllipseCollection
        Of the kept and of the dropped.
    """
    out = []
    for which, style in ((kept, {"linestyles": "solid"}), (~kept, {"linestyles": "dashed"})):
        size = np.full(which.sum(), float(diameter))
        ring = EllipseCollection(size, size, np.zeros(len(size)), units="xy", offsets=xy[which].reshape(-1, 2),
                                 transOffset=axes.transData, facecolors="none", linewidths=1.2, **style)
        if which is kept:
            ring.set_array(np.asarray(depth)[which])
            ring.set_cmap("viridis")
        else:
            ring.set_edgecolor(DROPPED)
        out.append(axes.add_collection(ring))
    return out


class Particles:
    """Particles on a slab of their tomogram, which a slider moves, and on the least tilted image.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    scene : viewers.scenes.Scene
    """

    def __init__(self, figure, scene):
        self._scene = scene
        panels = (scene.volume is not None) + (scene.image is not None)
        left = 0.06
        self.slab = None
        if scene.volume is not None:
            width = 0.88 / panels
            self._axes = figure.add_axes((left, 0.14, width - 0.04, 0.76))
            left += width
            self._stack = mrc.open_stack(scene.volume)
            self.count = len(self._stack)
            self._half = max(1, int(round(scene.diameter / scene.voxel / 2)))
            self.image = None
            middle = int(np.median(scene.voxels[:, 2])) if len(scene.voxels) else self.count // 2
            self.slider = Slider(figure.add_axes((0.15, 0.03, 0.7, 0.03)), "section", 0, max(self.count - 1, 1),
                                 valinit=middle, valstep=1)
            self.slider.on_changed(self.set)
            self.set(middle)
        if scene.image is not None:
            axes = figure.add_axes((left, 0.14, 0.88 / panels - 0.04, 0.76))
            low, high = _grey(scene.image)
            axes.imshow(scene.image, cmap="gray", origin="lower", vmin=low, vmax=high)
            self.on_image = circles(axes, scene.on_image, scene.depth, scene.kept, scene.diameter / scene.image_pixel)
            axes.set_title("image at %.1f degrees, low-passed" % scene.tilt, fontsize=9)
            axes.set_xlim(-0.5, scene.image.shape[1] - 0.5)
            axes.set_ylim(-0.5, scene.image.shape[0] - 0.5)
        figure.suptitle("%s: %d kept, %d dropped (dashed); colour: depth" % (
            scene.name, scene.kept.sum(), (~scene.kept).sum()), fontsize=10)

    def set(self, number):
        """Show the slab about a section, with the particles in it.

        Parameters
        ----------
        number : int
            From 0.
        """
        scene, number = self._scene, int(min(max(number, 0), self.count - 1))
        near = range(max(0, number - self._half // 2), min(self.count, number + self._half // 2 + 1))
        section = np.mean([self._stack.read(n) for n in near], axis=0)
        low, high = _grey(section)
        if self.image is None:
            self.image = self._axes.imshow(section, cmap="gray", origin="lower", vmin=low, vmax=high)
        else:
            self.image.set_data(section)
            self.image.set_clim(low, high)
            for ring in self.slab:
                ring.remove()
        self.inside = np.abs(scene.voxels[:, 2] - number) <= self._half
        self.slab = circles(self._axes, scene.voxels[self.inside, :2], scene.depth[self.inside],
                            scene.kept[self.inside], scene.diameter / scene.voxel)
        self._axes.set_title("section %d, %d particles in it" % (number, self.inside.sum()), fontsize=9)
        self._axes.figure.canvas.draw_idle()


class Tolerance:
    """A histogram of distances and a line that can be moved; the three counts follow.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    distances : ndarray `(N,)`
        Angstrom.
    tolerance : float
        Angstrom, to begin with.
    count : callable
        Takes a tolerance and gives only old, both, only new.
    """

    def __init__(self, figure, distances, tolerance, count):
        self._count = count
        self._axes = figure.add_axes((0.1, 0.24, 0.85, 0.64))
        top = float(np.percentile(distances, 98)) if len(distances) else 1.0
        top = max(top, 2 * tolerance, 1.0)
        self._axes.hist(np.clip(distances, 0, top), bins=60, range=(0, top), color="#4c72b0")
        self._axes.set_xlabel("distance to the nearest new particle (Å)")
        self._axes.set_ylabel("old particles")
        self.line = self._axes.axvline(tolerance, color=DROPPED, lw=1.6)
        self.slider = Slider(figure.add_axes((0.15, 0.05, 0.7, 0.04)), "tolerance (Å)", 0, top, valinit=tolerance)
        self.slider.on_changed(self.set)
        figure.canvas.mpl_connect("button_press_event", self._clicked)
        self.set(tolerance)

    def _clicked(self, event):
        if event.inaxes is self._axes and event.xdata is not None:
            self.slider.set_val(event.xdata)

    def set(self, tolerance):
        """Move the line.

        Parameters
        ----------
        tolerance : float
            Angstrom.
        """
        self.tolerance = float(tolerance)
        self.line.set_xdata([self.tolerance] * 2)
        self.counts = self._count(self.tolerance)
        self._axes.set_title("%.4g Å: %d only old, %d both, %d only new" % (self.tolerance, *self.counts), fontsize=10)
        self._axes.figure.canvas.draw_idle()
