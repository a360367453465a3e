"""Tables that say where the particles of a tilt series are seen in its images.

Comma separated, with a head and a row for every particle and tilt: ``particle``, its name; ``tilt``, the row of the
image in the table of the tilt series, from 0; ``x_px`` and ``y_px``, pixels of the unbinned image, 0 being the centre
of its first pixel; ``visible``, 1 if the image shows the particle.
"""

import csv

from .atomic import staged

HEAD = ("particle", "tilt", "x_px", "y_px", "visible")


def write_projected(path, names, tilts, xy_px, visible):
    """Write the projected centres of N particles in T tilts, atomically.

    Parameters
    ----------
    path : str
    names : sequence of str
        Of the particles.
    tilts : sequence of int
        Row of each tilt in the table of the tilt series, from 0.
    xy_px : ndarray `(N, T, 2)`
        Pixels of the unbinned images, from the centre of the first one.
    visible : ndarray `(N, T)` of bool
    """
    with staged(path) as temp:
        with open(temp, "w", encoding="utf-8", errors="surrogateescape", newline="") as handle:
            rows = csv.writer(handle, lineterminator="\n")
            rows.writerow(HEAD)
            for name, places, shown in zip(names, xy_px.tolist(), visible.tolist()):
                rows.writerows((name, tilt, "%.3f" % x, "%.3f" % y, int(seen))
                               for tilt, (x, y), seen in zip(tilts, places, shown))
