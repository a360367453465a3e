"""The handedness of the defocus: the particle is reconstructed with both, and the halves are compared."""

import os
import tempfile

import numpy as np

from ..convert import from_scipion, positions, refined, subsets
from ..errors import InputError
from ..io import mrc, particlestar, relion5
from ..jobs import runner
from ..protocols import (
    ProtTomoExportImageSeries,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstructParticle,
    ProtTomoExportSubtomos,
)
from .wizard_base import TomoExportWizard, ctfs, particles, tilt_series

MOST = 200  # particles that are tried
BOX = 64


def compare_hands(ts_set, ctf_set, items, most=MOST, box=BOX, folder=None):
    """Reconstruct the particle from some of its particles with both hands.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries
    ctf_set : tomo.objects.SetOfCTFTomoSeries
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        With orientations.
    most : int
        Particles of all that are tried.
    box : int
        Pixels of the tilt series.
    folder : str, optional
        For what is written; one that goes by default.

    Returns
    -------
    dict of int to (float, ndarray)
        By hand: the correlation of the half maps over all shells, and the middle section of the map.

    Raises
    ------
    InputError
        If the particles have no orientations, or no tilt series has all.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="tomoexport_hand_") as folder:
            return compare_hands(ts_set, ctf_set, items, most, box, folder)
    found = positions.particles(items)
    if not found.oriented:
        raise InputError("particles", "they have no orientations, without which a map shows nothing",
                         "Try both hands on a refinement")
    common = set(ts_set.getTSIds()) & set(ctf_set.getTSIds()) & set(found.ts_ids)
    if not common:
        raise InputError("inputs", "no tilt series is in all of them", "Compare their names")
    names = [name for name in found.ts_ids if name in common]
    sizes = {}
    if not refined.is_refined(items):
        sizes = {n: f.size for n, f in positions.frames(subsets.coordinates(items).getPrecedents()).items()}
    rows = np.flatnonzero([name in common for name in found.names()])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
    series, _, failures = from_scipion.tilt_series_set(ts_set, names, ctf_set, sizes)
    if not series:
        raise InputError("tilt series", " ".join(failures.values()), "Correct them first")
    project = relion5.write_project(os.path.join(folder, "input"), series)
    table = os.path.join(folder, "particles.star")
    read = {one.ts_id for one in series}
    particlestar.write_particles(table, found.select([i for i in rows if found.names()[i] in read]))
    out = {}
    for hand in (1, -1):
        target = os.path.join(folder, "hand%+d" % hand)
        done = runner.run({"verb": "particle", "options": dict(
            tomograms=project, particles=table, output=target, box=box, crop=box // 2, hand=hand, device="auto")})
        halves = [mrc.read_volume(done["collected"][name])[0] for name in ("half1", "half2")]
        average = mrc.read_volume(done["collected"]["average"])[0]
        out[hand] = (float(np.corrcoef(*(half.ravel() for half in halves))[0, 1]), average[len(average) // 2])
    return out


class TomoExportHandWizard(TomoExportWizard):
    """Both hands, the one whose half maps agree better first."""

    _targets = [(kind, ["hand"]) for kind in (ProtTomoExportSubtomos, ProtTomoExportImageSeries)] + [
        (kind, ["handedness"]) for kind in (ProtTomoExportPseudoSubtomos, ProtTomoExportReconstructParticle)]
    TITLE = "Handedness of the defocus"

    def _needs(self, protocol):
        return [particles(protocol), tilt_series(protocol), ctfs(protocol)]

    def _proposals(self, protocol):
        found = compare_hands(*(getattr(protocol, name(protocol)).get() for name in (tilt_series, ctfs, particles)))
        order = sorted(found, key=lambda hand: -found[hand][0])
        apart = found[order[0]][0] - found[order[1]][0]
        remark = "" if apart > 0.01 else "; the difference is too small to tell"
        return [(hand, "half maps of up to %d particles correlate by %.3f%s" % (MOST, found[hand][0], remark))
                for hand in order]

    def _write(self, form, value):
        name = self._param(form.protocol)
        texts = form.protocol.getParam(name).choices
        form.setVar(name, next(i for i, text in enumerate(texts) if "%+d" % value in text))

    @staticmethod
    def _line(value, text):
        return "%+d   %s" % (value, text)
