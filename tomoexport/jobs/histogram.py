"""Histograms of distances between particles: a table, and a figure."""

import csv
import io

import numpy as np

from ..io.atomic import write_text
from .report import COLOURS, FAINT, INK, _figure, _plot, _save

BINS = 100


def edges(*distances):
    """Limits of the bins that hold these distances.

    Parameters
    ----------
    *distances : ndarray `(n,)`
        Angstrom; infinite ones do not count.

    Returns
    -------
    ndarray `(101,)`
        Angstrom, from 0 in equal steps; the last is 1 A at least.
    """
    finite = [d[np.isfinite(d)] for d in distances]
    return np.linspace(0.0, max([1.0] + [float(d.max()) for d in finite if len(d)]), BINS + 1)


def write(stem, limits, distances, title, line=None):
    """Write ``stem.csv`` and ``stem.png``: how many distances lie in each bin.

    Parameters
    ----------
    stem : str
    limits : ndarray `(n + 1,)`
        Angstrom; what lies beyond the last is left out.
    distances : dict of str to ndarray
        Angstrom. The first is drawn as bars, others as outlines.
    title : str
    line : (str, float), optional
        A distance to be marked, and what it is.

    Returns
    -------
    list of str
        Both paths.
    """
    counts = {name: np.histogram(d[np.isfinite(d)], limits)[0] for name, d in distances.items()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["from_A", "to_A"] + [name.replace(" ", "_") for name in counts])
    for i, row in enumerate(zip(*counts.values())):
        table.writerow(["%.6g" % limits[i], "%.6g" % limits[i + 1]] + [int(n) for n in row])
    write_text(stem + ".csv", text.getvalue())
    figure = _figure(6.4, 4.0)
    axes = _plot(figure.add_subplot(), "distance (Å)", "particles")
    for colour, (name, values) in zip(COLOURS, counts.items()):
        if colour == COLOURS[0]:
            axes.bar(limits[:-1], values, width=np.diff(limits), align="edge", color=colour, label=name)
        else:
            axes.step(limits, np.append(values, values[-1]), where="post", color=colour, lw=1.2, label=name)
    if line is not None and line[1] <= limits[-1]:
        axes.axvline(line[1], color=FAINT, lw=1.0, ls=(0, (4, 3)), label="%s, %g Å" % line)
    axes.set_xlim(0, limits[-1])
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.suptitle(title, color=INK, fontsize=11)
    figure.tight_layout()
    _save(figure, stem + ".png")
    return [stem + ".csv", stem + ".png"]
