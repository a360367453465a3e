"""What moves and turns locally in a tilt series, beyond one rotation and one shift per tilt: Warp's and M's grids.

A point ``r`` of the tomogram is seen in tilt t at::

    r' = r + warp((r + V/2) / V, dose)           V: extent of the tomogram, A
    xy0 = L [R r']_xy + shift, depth = [R r']_z  as without deformation
    xy = xy0 - movement((xy0 + C) / I, t)        I: extent of the image, C: its centre from its corner, A
    matrix = L [G R]_xy, G = Rz(gz) Ry(gy) Rx(gx), g = angle((r + V/2)_xy / V_xy, t)

The angles turn particles, not positions.  The movement is looked up where the point would be without it.  Time t runs
from 0 to 1 over the tilts as the grids' author numbered them, dose from 0 to 1 between the least and the largest dose.
"""

from dataclasses import dataclass, field, replace
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import InputError
from .geometry import rotation_x, rotation_y, rotation_z
from .grids import CubicGrid, MultilinearGrid


@dataclass(frozen=True, eq=False)
class Deformation:
    """Local alignment of T tilts.

    Parameters
    ----------
    time : ndarray `(T,)`
        Number of the tilt in the whole series over N - 1; 0 where there is one tilt only.
    dose : ndarray `(T,)`
        0 to 1, of the whole series' range of doses.
    image_size, image_centre : (float, float)
        Angstrom, xy: extent of the images to which the movement belongs, and their centre counted from the corner.
    volume_size : (float, float, float)
        Angstrom, xyz: extent of the tomogram to which warp and angles belong.
    movement : (CubicGrid, CubicGrid), optional
        Angstrom along x and y of the image.
    warp : (MultilinearGrid, MultilinearGrid, MultilinearGrid), optional
        Angstrom along x, y and z of the tomogram.
    angle : (CubicGrid, CubicGrid, CubicGrid), optional
        Degrees about x, y and z of the image.
    turn : ndarray `(T,)`, optional
        Degrees by which the images have been turned counter-clockwise about their centre since.

    Raises
    ------
    InputError
        If lengths differ or an extent has no meaning.
    """

    time: np.ndarray
    dose: np.ndarray
    image_size: Tuple[float, float]
    image_centre: Tuple[float, float]
    volume_size: Tuple[float, float, float]
    movement: Optional[Tuple[CubicGrid, CubicGrid]] = field(default=None, repr=False)
    warp: Optional[Tuple[MultilinearGrid, MultilinearGrid, MultilinearGrid]] = field(default=None, repr=False)
    angle: Optional[Tuple[CubicGrid, CubicGrid, CubicGrid]] = field(default=None, repr=False)
    turn: np.ndarray = None  # type: ignore[assignment]  # None gives zeros

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  frozen
        n = len(np.atleast_1d(self.time))
        put("turn", np.zeros(n) if self.turn is None else self.turn)
        for name in ("time", "dose", "turn"):
            value: Any = np.atleast_1d(np.array(getattr(self, name), np.float64))
            if value.shape != (n,) or not np.isfinite(value).all():
                raise InputError("deformation", "%s has %d values for %d tilts, or one that is no number"
                                 % (name, value.size, n), "Give one per tilt")
            value.flags.writeable = False
            put(name, value)
        for name, count in (("image_size", 2), ("image_centre", 2), ("volume_size", 3)):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != count or not min(value) > 0:
                raise InputError("deformation", "%s is %s" % (name.replace("_", " "), value),
                                 "Give %d lengths above 0" % count)
            put(name, value)
        for name, count in (("movement", 2), ("warp", 3), ("angle", 3)):
            if getattr(self, name) is not None and len(getattr(self, name)) != count:
                raise InputError("deformation", "%s has %d grids" % (name, len(getattr(self, name))),
                                 "Give %d" % count)

    @property
    def n_tilts(self) -> int:
        """Number of tilts T."""
        return len(self.time)

    def select(self, index: Union[np.ndarray, Sequence[int]]) -> "Deformation":
        """Of some of the tilts; the grids stay, and every tilt keeps its place in them.

        Parameters
        ----------
        index : ndarray `(T,)` of bool, or of indices

        Returns
        -------
        Deformation
        """
        return replace(self, time=self.time[index], dose=self.dose[index], turn=self.turn[index])

    def turned(self, angle: np.ndarray) -> "Deformation":
        """The same for images that have been turned.

        Parameters
        ----------
        angle : ndarray `(T,)`
            Degrees, counter-clockwise about the image centre.

        Returns
        -------
        Deformation
        """
        return replace(self, turn=self.turn + angle)

    def displaced(self, points: np.ndarray) -> np.ndarray:
        """Where points of the tomogram have gone by the time of each tilt.

        Parameters
        ----------
        points : ndarray `(N, 1, 3)` or `(N, T, 3)`
            Angstrom, xyz from the tomogram centre; the same for all tilts, or one per tilt.

        Returns
        -------
        ndarray of the same shape, or `(N, T, 3)`
        """
        if self.warp is None:
            return points
        place = points / self.volume_size + 0.5
        return points + np.stack([
            grid(*np.moveaxis(place, -1, 0), self.dose)  # type: ignore[call-arg]  # mypy takes * for all
            for grid in self.warp], -1)

    def moved(self, xy: np.ndarray) -> np.ndarray:
        """Where images show what would be seen at some place without movement.

        Parameters
        ----------
        xy : ndarray `(N, T, 2)`
            Angstrom from the image centre.

        Returns
        -------
        ndarray `(N, T, 2)`
        """
        if self.movement is None:
            return xy
        c, s = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        x, y = (c * xy[..., 0] + s * xy[..., 1], c * xy[..., 1] - s * xy[..., 0])  # before the images were turned
        x, y = ((v + centre) / size for v, centre, size in zip((x, y), self.image_centre, self.image_size))
        dx, dy = (grid(x, y, self.time) for grid in self.movement)
        return xy - np.stack([c * dx - s * dy, s * dx + c * dy], -1)

    def rotation(self, points: np.ndarray) -> Optional[np.ndarray]:
        """How particles are turned, after the rotation of the tilt.

        Parameters
        ----------
        points : ndarray `(N, 1, 3)` or `(N, T, 3)`
            Angstrom, xyz from the tomogram centre.

        Returns
        -------
        ndarray `(N, T, 3, 3)`, `(1, T, 3, 3)` if it is the same everywhere, or None if nothing is turned
            In the frame of the image.
        """
        if self.angle is None:
            return None
        x, y = np.moveaxis(points[..., :2] / self.volume_size[:2] + 0.5, -1, 0)
        if all(grid.flat for grid in self.angle):
            x = y = np.zeros((1, self.n_tilts))
        gx, gy, gz = (grid(x, y, self.time) for grid in self.angle)
        # Rz(turn) G Rz(-turn), G being Rz(gz) Ry(gy) Rx(gx)
        return rotation_z(gz + self.turn) @ rotation_y(gy) @ rotation_x(gx) @ rotation_z(-self.turn)

    def numbers(self) -> List[Any]:
        """Everything that determines projections.

        Returns
        -------
        list
            Nested lists of plain values.
        """
        grids = [(g.values.tolist(), getattr(g, "margins", None))
                 for kind in (self.movement, self.warp, self.angle) for g in kind or ()]
        return [self.time.tolist(), self.dose.tolist(), self.turn.tolist(), self.image_size, self.image_centre,
                self.volume_size, [kind is not None for kind in (self.movement, self.warp, self.angle)], grids]
