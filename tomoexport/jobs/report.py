"""Figures of the results: data in, one PNG of less than 300 kB out.

Figures are drawn without pyplot, so that they can be made in any thread and without a display.
"""

import io
import os

import numpy as np
from PIL import Image

from ..io import mrc
from ..io.atomic import staged

LIMIT = 300_000
PAPER, INK, FAINT, COLOURS = "#14171c", "#e8eaed", "#5c6370", ("#4cc2ff", "#ffb454", "#7fd962", "#f07178")


def tomogram_slices(volume, pixel_size, out_png, title=""):
    """Draw the central XY, XZ and YZ slices of a tomogram.

    Parameters
    ----------
    volume : str or ndarray `(nz, ny, nx)`
        A file, of which only what is shown is read, or the voxels.
    pixel_size : float
        Angstrom per voxel.
    out_png : str
    title : str
    """
    xy, xz, yz = central_slices(volume)
    (ny, nx), nz = xy.shape, xz.shape[0]
    figure = _figure(8.0 * (nx + nz) / max(nx + nz, ny + nz), 8.0 * (ny + nz) / max(nx + nz, ny + nz) + 0.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(nx, nz), height_ratios=(ny, nz), left=0.02, right=0.98, top=0.92,
                               bottom=0.02, wspace=0.03, hspace=0.03)
    for place, image, name in ((grid[0, 0], xy, "XY"), (grid[1, 0], xz, "XZ"), (grid[0, 1], yz.T, "ZY")):
        axes = _image(figure.add_subplot(place), image)
        _caption(axes, name)
        if name == "XY":
            _scale_bar(axes, nx * pixel_size, pixel_size)
    figure.suptitle(title or (os.path.basename(volume) if isinstance(volume, str) else ""), color=INK, fontsize=11)
    _save(figure, out_png)


def thumbnail(volume, out_png):
    """Draw the central XY slice of a tomogram, a pixel per voxel, without any writing.

    Parameters
    ----------
    volume : str or ndarray `(nz, ny, nx)`
    out_png : str

    Notes
    -----
    Grey runs from 3 standard deviations below to 3 above the mean of the slice's central quarter.
    """
    xy = central_slices(volume)[0]
    (h, w) = xy.shape
    middle = xy[h // 4:h - h // 4, w // 4:w - w // 4]
    mean, sd = float(middle.mean()), float(middle.std())
    grey = np.clip((xy - mean) / (6 * sd if sd > 0 else 1.0) + 0.5, 0, 1)
    # The first row is at the bottom, as in viewers.
    picture = Image.fromarray((255 * grey[::-1]).astype(np.uint8))
    os.makedirs(os.path.dirname(os.path.abspath(out_png)), exist_ok=True)
    with staged(out_png) as temp:
        picture.save(temp, format="png")


def central_slices(volume, busiest=False):
    """The central slices of a volume or of a file.

    Parameters
    ----------
    volume : ndarray `(nz, ny, nx)` or str
    busiest : bool
        XZ goes through the row of XY that varies most, where something is to be seen.

    Returns
    -------
    xy : ndarray `(ny, nx)`
    xz : ndarray `(nz, nx)`
    yz : ndarray `(nz, ny)`
    """
    if not isinstance(volume, str):
        nz, ny, nx = volume.shape
        row = int(np.argmax(volume[nz // 2].std(axis=1))) if busiest else ny // 2
        return volume[nz // 2], volume[:, row], volume[:, :, nx // 2]
    with mrc.open_stack(volume) as stack:
        nz, ny, nx = stack.header.shape
        xy, xz, yz = stack.read(nz // 2), np.empty((nz, nx), np.float32), np.empty((nz, ny), np.float32)
        row = int(np.argmax(xy.std(axis=1))) if busiest else ny // 2
        for z in range(nz):
            section = stack.read(z)
            xz[z], yz[z] = section[row], section[:, nx // 2]
        return xy, xz, yz


def subtomo_montage(paths, out_png, n=36, title=""):
    """Draw the central slices of sub-tomograms, and of their sum.

    A sum with a clear blob in its middle says that positions, signs and axes are right.

    Parameters
    ----------
    paths : list of str
    out_png : str
    n : int
        How many are shown and summed, taken evenly from `paths`.
    title : str
        By default the numbers.
    """
    images, total = montage(_evenly(paths, n))
    side = int(np.ceil(np.sqrt(len(images))))
    rows = int(np.ceil(len(images) / side))
    figure = _figure(11.0, 11.0 * 0.68 * rows / side + 0.6)
    left, right = figure.add_gridspec(1, 2, width_ratios=(2, 1), left=0.02, right=0.98, top=0.92, bottom=0.02,
                                      wspace=0.05)
    _tiles(figure.add_subplot(left), images, side, rows)
    axes = _image(figure.add_subplot(right), total)
    _caption(axes, "sum of %d" % len(images))
    figure.suptitle(title or "Central slices of %d of %d sub-tomograms" % (len(images), len(paths)), color=INK,
                    fontsize=11)
    _save(figure, out_png)


def montage(paths):
    """The central XY slices of sub-tomograms, and of their sum.

    Parameters
    ----------
    paths : list of str
        n volumes of the same box.

    Returns
    -------
    slices : ndarray `(n, box, box)`
    total : ndarray `(box, box)`
    """
    images = []
    for path in paths:
        with mrc.open_stack(path) as stack:
            images.append(stack.read(len(stack) // 2))
    return np.array(images), np.sum(images, axis=0)


def fsc_curve(curves, out_png, title="Fourier shell correlation"):
    """Draw FSC curves.

    Parameters
    ----------
    curves : dict of str to (ndarray, ndarray)
        Frequencies in 1/A and correlations.
    out_png : str
    title : str
    """
    figure = _figure(6.4, 4.2)
    _fsc(figure.add_axes((0.12, 0.16, 0.84, 0.72)), curves)
    figure.suptitle(title, color=INK, fontsize=11)
    _save(figure, out_png)


def particles_per_tomogram(counts, out_png):
    """Draw the number of particles of every tomogram.

    Parameters
    ----------
    counts : dict of str to int
    out_png : str
    """
    figure = _figure(6.4, min(max(1.6, 0.28 * len(counts) + 1.2), 14.0))
    axes = _plot(figure.add_subplot(), "particles", "")
    names = sorted(counts)
    axes.barh(range(len(names)), [counts[n] for n in names], color=COLOURS[0], height=0.7)
    step = max(1, len(names) // 40)
    axes.set_yticks(range(0, len(names), step), [_short(n) for n in names[::step]], fontsize=8)
    axes.invert_yaxis()
    figure.suptitle("%d particles in %d tomograms" % (sum(counts.values()), sum(1 for n in counts.values() if n)),
                    color=INK, fontsize=11)
    figure.tight_layout()
    _save(figure, out_png)


def tilts_per_particle(tilts, out_png):
    """Draw how many particles are seen in how many tilts.

    Parameters
    ----------
    tilts : sequence of int
        One number per particle.
    out_png : str
    """
    tilts = np.asarray(tilts, int)
    figure = _figure(6.4, 3.4)
    axes = _plot(figure.add_subplot(), "tilts in which a particle is seen", "particles")
    values, numbers = np.unique(tilts, return_counts=True)
    axes.bar(values, numbers, color=COLOURS[0], width=0.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle("Tilts per particle", color=INK, fontsize=11)
    figure.tight_layout()
    _save(figure, out_png)


def projected_centres(image, pixel_size, xy_px, kept, radius_px, out_png, name, tilt):
    """Draw particles as circles on a tilt image; those that are left out in another colour.

    Parameters
    ----------
    image : ndarray `(h, w)`
        Not binned; it is averaged over squares of pixels until neither side is above 500.
    pixel_size : float
        Angstrom per pixel.
    xy_px : ndarray `(N, 2)`
        Where the particles are seen, pixels from the centre of the first one.
    kept : ndarray `(N,)` of bool
    radius_px : float
        Of the circles.
    out_png : str
    name : str
        Of the tilt series.
    tilt : float
        Degrees, of the image.

    Notes
    -----
    The image fills the width of the picture from its lower edge on, so that places can be measured in it.
    """
    from matplotlib.collections import LineCollection
    step = -(-max(image.shape) // 500)
    ny, nx = (n // step for n in image.shape)
    binned = image[:ny * step, :nx * step].reshape(ny, step, nx, step).mean(axis=(1, 3))
    width, head = 8.0, 0.4  # inches
    height = width * ny / nx
    figure = _figure(width, height + head)
    axes = _image(figure.add_axes((0, 0, 1, height / (height + head))), binned)
    angle = np.linspace(0, 2 * np.pi, 49)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius_px / step
    # A pixel's centre lies half a pixel from its edge, where the picture begins.
    places = (np.reshape(xy_px, (-1, 1, 2)) + 0.5) / step
    kept, many = np.asarray(kept, bool), len(places) > 300
    thick = 0.9 if many else 1.2
    middle = 1 - 0.55 * head / (height + head)
    figure.text(0.01, middle, "%s at %g°" % (_short(name), round(tilt, 1) + 0.0), color=INK, fontsize=11, va="center")
    for colour, some, word, x in ((COLOURS[0], kept, "kept", 0.82), (COLOURS[1], ~kept, "left out", 0.99)):
        if many:  # one circle that is stamped at whole pixels of the picture: a hundred times faster
            axes.plot(*places[some, 0].T, "o", markersize=144 * width * radius_px / step / nx, markerfacecolor="none",
                      markeredgecolor=colour, markeredgewidth=thick, scalex=False, scaley=False)
        else:
            axes.add_collection(LineCollection(places[some] + ring, colors=colour, linewidths=thick), autolim=False)
        figure.text(x, middle, "%d %s" % (some.sum(), word), color=colour, fontsize=10, va="center", ha="right")
    _scale_bar(axes, nx * step * pixel_size, step * pixel_size)
    _save(figure, out_png)


def tilt_series_overview(series, out_png, most=12):
    """Draw defocus and dose of tilt series over the tilt angle; excluded views are open circles.

    Parameters
    ----------
    series : list of io.tiltseries.TiltSeries
    out_png : str
    most : int
        Series that are drawn.
    """
    figure = _figure(9.0, 3.8)
    panels = [_plot(figure.add_subplot(1, 2, i + 1), "tilt (degrees)", label)
              for i, label in enumerate(("mean defocus (µm)", "dose before the exposure (e/Å²)"))]
    for i, one in enumerate(series[:most]):
        geometry, ctf = one.geometry, one.ctf
        order = np.argsort(geometry.tilt)
        columns = [None if ctf is None else 0.5e-4 * (ctf.defocus_u + ctf.defocus_v), geometry.dose]
        for axes, values in zip(panels, columns):
            if values is not None:
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(geometry.tilt[order], values[order], color=colour, lw=0.8, label=_short(one.ts_id))
                for mask, face in ((geometry.used, colour), (~geometry.used, PAPER)):
                    axes.plot(geometry.tilt[mask], values[mask], "o", ms=3.5, color=colour, mfc=face)
    panels[1].legend(fontsize=7, frameon=False, labelcolor=INK)
    figure.suptitle("%d tilt series%s" % (len(series), ", the first %d shown" % most if len(series) > most else ""),
                    color=INK, fontsize=11)
    figure.tight_layout()
    _save(figure, out_png)


def overview(tomogram, tomogram_pixel_size, subtomos, average, average_pixel_size, curves, out_png, title=""):
    """Draw the whole way in one picture: tomogram, sub-tomograms, average and FSC.

    Parameters
    ----------
    tomogram, average : str or ndarray `(nz, ny, nx)`
    tomogram_pixel_size, average_pixel_size : float
        Angstrom per voxel.
    subtomos : list of str
        Files; 36 of them are shown.
    curves : dict of str to (ndarray, ndarray)
        As in `fsc_curve`.
    out_png : str
    title : str
    """
    xy, xz, _ = central_slices(tomogram, busiest=True)
    # Of a thick tomogram the middle is enough.
    shown = min(len(xz), int(0.6 * len(xy)))
    xz = xz[(len(xz) - shown) // 2:][:shown]
    images, _ = montage(_evenly(subtomos, 36))
    # Inches: three columns of one height; in the first both slices have the same scale.
    height, gap, top = 5.4, 0.3, 0.85
    inner = 0.06
    first = (height - inner) * xy.shape[1] / (xy.shape[0] + xz.shape[0])
    side = int(np.ceil(np.sqrt(len(images))))
    third = 4.4
    width = first + height + third + 4 * gap
    figure = _figure(width, height + top + gap)

    def place(x, y, w, h):
        return figure.add_axes((x / width, (y + gap) / (height + top + gap), w / width, h / (height + top + gap)))

    depth = first * xz.shape[0] / xy.shape[1]
    axes = _image(place(gap, depth + inner, first, height - depth - inner), xy)
    _caption(axes, "XY")
    _scale_bar(axes, xy.shape[1] * tomogram_pixel_size, tomogram_pixel_size)
    _caption(_image(place(gap, 0, first, depth), xz), "XZ")
    x = first + 2 * gap
    _tiles(place(x, 0, height, height), images, side, int(np.ceil(len(images) / side)))
    x += height + gap
    slices = central_slices(average)
    tile = (third - 2 * inner) / 3
    for i, (image, name) in enumerate(zip(slices, ("XY", "XZ", "YZ"))):
        axes = _image(place(x + i * (tile + inner), height - tile, tile, tile), image)
        _caption(axes, name)
        if name == "XY":
            _scale_bar(axes, image.shape[1] * average_pixel_size, average_pixel_size)
    _fsc(place(x + 0.5, 0.4, third - 0.5, height - tile - 0.75), curves)
    count = "%d of %d sub-tomograms" % (len(images), len(subtomos))
    for left, text in ((gap, "Tomogram"), (first + 2 * gap, count), (x, "Average")):
        figure.text(left / width, (height + gap + 0.1) / (height + top + gap), text, color=INK, fontsize=12)
    figure.text(gap / width, (height + gap + 0.47) / (height + top + gap), title, color=INK, fontsize=14, weight="bold")
    _save(figure, out_png)


def _evenly(items, n):
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).astype(int))]


def _figure(width, height):
    # Loading it takes a quarter of a second, which a job need not wait for before it begins.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure((width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _plot(axes, xlabel, ylabel):
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=INK, labelsize=8)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)
    axes.set_xlabel(xlabel, color=INK, fontsize=9)
    axes.set_ylabel(ylabel, color=INK, fontsize=9)
    return axes


def _fsc(axes, curves):
    _plot(axes, "resolution (Å)", "FSC")
    top = 0.0
    for colour, (name, (frequency, values)) in zip(COLOURS, curves.items()):
        # The mean, at frequency 0, has no correlation but a sign.
        axes.plot(frequency[1:], values[1:], color=colour, lw=1.6, label=name)
        top = max(top, float(np.max(frequency)))
    for level in (0.5, 0.143):
        axes.axhline(level, color=FAINT, lw=0.8, ls=(0, (4, 3)))
        axes.text(top, level + 0.015, "%g" % level, color=INK, fontsize=7, ha="right")
    ticks = np.linspace(0, top, 6)[1:]
    axes.set_xticks(ticks, ["%.3g" % (1 / t) for t in ticks])
    axes.set_xlim(0, top)
    axes.set_ylim(-0.1, 1.03)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower left")


def _image(axes, image):
    """Show an image in grey, the brightest and darkest 0.5 % clipped; the first row is at the bottom, as in viewers."""
    step = max(1, max(image.shape) // 1200)
    low, high = np.percentile(image, (0.5, 99.5))
    axes.imshow(image[::step, ::step], cmap="gray", vmin=low, vmax=high, origin="lower",
                extent=(0, image.shape[1], 0, image.shape[0]), interpolation="nearest")
    axes.set_axis_off()
    return axes


def _tiles(axes, images, side, rows):
    """Show images of one size as tiles of one picture, each with its own grey scale."""
    box, gap = images.shape[1], max(1, images.shape[1] // 24)
    sheet = np.full((rows * (box + gap) - gap, side * (box + gap) - gap), np.nan)
    for i, image in enumerate(images):
        low, high = np.percentile(image, (0.5, 99.5))
        y, x = (i // side) * (box + gap), (i % side) * (box + gap)
        sheet[y:y + box, x:x + box] = np.clip((image[::-1] - low) / max(high - low, 1e-12), 0, 1)
    axes.imshow(np.ma.masked_invalid(sheet), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_anchor("N")


def _caption(axes, text):
    axes.text(0.015, 0.985, text, transform=axes.transAxes, color=INK, fontsize=8, ha="left", va="top",
              bbox=dict(facecolor=PAPER, edgecolor="none", alpha=0.7, pad=2))


def _scale_bar(axes, extent, pixel_size):
    """Draw a bar of a round length, about a fifth of ``extent`` (angstrom)."""
    target = extent / 5
    power = 10.0 ** np.floor(np.log10(target))
    length = max(f * power for f in (1, 2, 5) if f * power <= target)
    width, height = axes.get_xlim()[1], axes.get_ylim()[1]
    x = 0.04 * width
    axes.plot((x, x + length / pixel_size), (0.05 * height,) * 2, color=INK, lw=2.5, solid_capstyle="butt")
    axes.text(x, 0.065 * height, "%g nm" % (length / 10), color=INK, fontsize=8, va="bottom",
              bbox=dict(facecolor=PAPER, edgecolor="none", alpha=0.7, pad=2))


def _short(name, most=24):
    shown = name if len(name) <= most else name[:most - 1] + "…"
    return shown.replace("$", r"\$")  # no formulas


def _save(figure, path):
    """Write the figure."""
    with staged(path) as temp:
        with open(temp, "wb") as file:
            file.write(_drawn(figure))


def _drawn(figure):
    """The figure as PNG, bytes, with fewer dots per inch if it would be too large."""
    dpi = 120
    while True:
        figure.set_dpi(dpi)
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
        picture = picture.quantize(255, method=Image.MAXCOVERAGE, dither=Image.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, format="png")
        if buffer.tell() < LIMIT or dpi <= 30:
            return buffer.getvalue()
        dpi = max(30, int(0.95 * dpi * np.sqrt(LIMIT / buffer.tell())))
