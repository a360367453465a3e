"""Projected centres of particles as landmark models, which viewers of tilt series show."""

import csv
import os

from tomo.objects import LandmarkModel

from ..io.atomic import write_text
from .from_scipion import from_zero

_HEAD = ("xCoor", "yCoor", "tiltIm", "chainId", "xResid", "yResid")
# Landmarks count as IMOD's models do, from the corner of the first pixel and not from its centre.
_CORNER = 0.5


def stack_numbers(series, ts):
    """Find the images of a table's tilts in the stack of a tilt series.

    Parameters
    ----------
    series : io.tiltseries.TiltSeries
        As the table has it.
    ts : tomo.objects.TiltSeries

    Returns
    -------
    list of int or None
        For each row of the table the number of the image, from 1: the same section of the same file, or else that of
        the same acquisition order. None if they are not the same images.
    """
    places, orders = {}, {}
    for ti in ts.iterItems():
        number = max(int(ti.getIndex() or 1), 1)
        places[os.path.realpath(ti.getFileName()), number - 1] = number
        orders[ti.getAcquisitionOrder()] = number
    here = [places.get((os.path.realpath(path), section)) for path, section in series.images]
    if None in here and None not in orders and len(orders) == len(series.images):
        numbers = dict(zip(from_zero(list(orders)), orders.values()))
        here = [numbers.get(order) for order in from_zero(series.geometry.acq_order)]
    return None if None in here else here


def add_landmarks(landmark_set, ts, table, path, numbers, diameter):
    """Append the landmark model of a tilt series: a chain for every particle, through the tilts that show it.

    Parameters
    ----------
    landmark_set : tomo.objects.SetOfLandmarkModels
    ts : tomo.objects.TiltSeries
    table : str
        The job's table of projected centres.
    path : str
        Of the model's file.
    numbers : list of int
        Of `stack_numbers`.
    diameter : float
        Angstrom; how large they are shown.
    """
    lines, chains = ["\t".join(_HEAD)], {}
    with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            chain = chains.setdefault(row["particle"], len(chains) + 1)
            if int(row["visible"]):
                lines.append("%.3f\t%.3f\t%d\t%d\t0\t0" % (float(row["x_px"]) + _CORNER, float(row["y_px"]) + _CORNER,
                                                            numbers[int(row["tilt"])], chain))
    write_text(path, "\r\n".join(lines) + "\r\n")
    # Positions are those in the images as recorded: no transform is to be applied to them.
    model = LandmarkModel(tsId=ts.getTsId(), fileName=path, size=int(round(diameter)), applyTSTransformation=False)
    model.setTiltSeries(ts)
    model.setCount(len(chains))
    landmark_set.append(model)
