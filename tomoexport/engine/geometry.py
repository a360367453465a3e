"""Where a point of the tomogram is seen in each tilt image.

Conventions, obeyed everywhere in this package
----------------------------------------------
Points are xyz column vectors in angstrom from the tomogram centre, which is voxel ``N//2``; arrays are indexed
zyx.  Angles are degrees at every border and radians inside kernels.  Defocus is in angstrom, underfocus positive.
Dose is what the specimen had received *before* the exposure, in electrons per square angstrom.  A name carries a
suffix only when it breaks one of these rules (``_px``, ``_rad``, ``_zyx``).

The projection of a point ``r`` in tilt ``t`` is::

    R = Rz(axis) Ry(tilt) Rx(xtilt)             right-handed, active; tilt as in IMOD's .tlt and rlnTomoYTilt
    xy = L [R r]_xy + shift                     angstrom from the image centre, pixel N//2; L is 1 but for magnification
    depth = [R r]_z
    defocus(r) = defocus + hand * slope * depth     hand as rlnTomoHand, +1 or -1; slope 1 but for a fitted one

A series may have a `deformation` (local alignment) in addition, which `TiltSeriesGeometry.project` honours.  What needs
one matrix per tilt, whole tomograms above all, uses ``rotation``, ``matrix`` and ``shift``, the global alignment.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .record import fields_of

if TYPE_CHECKING:
    from .deformation import Deformation

LEAST_DOSE, MOST_DOSE = 1e-3, 1e5  # e/A^2: below 0 by rounding alone; beyond that it is a damaged number
#: Degrees beyond which an angle is a damaged number.
LARGEST = {"tilt": 180.0, "xtilt": 180.0, "axis": 720.0}


def rotation_x(angle: ArrayLike) -> np.ndarray:
    """Active right-handed rotation about x.

    Parameters
    ----------
    angle : ndarray `(...)`
        Degrees.

    Returns
    -------
    ndarray `(..., 3, 3)`
    """
    return _rotation(angle, 1, 2)


def rotation_y(angle: ArrayLike) -> np.ndarray:
    """Active right-handed rotation about y.

    Parameters
    ----------
    angle : ndarray `(...)`
        Degrees.

    Returns
    -------
    ndarray `(..., 3, 3)`
    """
    return _rotation(angle, 2, 0)


def rotation_z(angle: ArrayLike) -> np.ndarray:
    """Active right-handed rotation about z.

    Parameters
    ----------
    angle : ndarray `(...)`
        Degrees.

    Returns
    -------
    ndarray `(..., 3, 3)`
    """
    return _rotation(angle, 0, 1)


def _rotation(angle: ArrayLike, i: int, j: int) -> np.ndarray:
    rad = np.deg2rad(np.asarray(angle, np.float64))
    out = np.zeros(rad.shape + (3, 3))
    k = 3 - i - j
    out[..., k, k] = 1.0
    out[..., i, i] = out[..., j, j] = np.cos(rad)
    out[..., j, i] = np.sin(rad)
    out[..., i, j] = -np.sin(rad)
    return out


@dataclass(frozen=True, eq=False)
class Projection:
    """What the particle kernels need to know of N points in T tilts.

    Attributes
    ----------
    xy : ndarray `(N, T, 2)`
        Angstrom from the image centre.
    depth : ndarray `(N, T)`
        Angstrom along the beam from the tomogram centre, in the frame of the tilt.
    matrix : ndarray `(N, T, 2, 3)`, or `(1, T, 2, 3)` if it is the same for all points
        Image coordinates of a small displacement: ``d_xy = matrix @ d_r``.  The image frequency q of a tilt is the
        3D frequency ``matrix.T @ q``.
    """

    xy: np.ndarray
    depth: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class TiltSeriesGeometry:
    """Alignment and dose of one tilt series of T images; a value that is never changed.

    Parameters
    ----------
    ts_id : str
        Name of the tilt series.
    image_shape : (int, int)
        Height and width of the images, pixels.
    pixel_size : float
        Angstrom per image pixel.
    tilt, axis : ndarray `(T,)`
        Degrees: tilt angle, and direction of the tilt axis in the image, counted from y counter-clockwise.
    shift : ndarray `(T, 2)`
        Angstrom, xy: where the tomogram centre is seen, from the image centre.
    dose : ndarray `(T,)`
        Electrons per square angstrom before the exposure.
    volume_size : (float, float, float)
        Angstrom, xyz: extent of the tomogram.
    hand : int
        +1 or -1: whether defocus grows or falls with depth.
    acq_order : ndarray `(T,)` of int, optional
        Order of acquisition, unique. By default the order of dose, then of rows.
    used : ndarray `(T,)` of bool, optional
        False for excluded views.
    xtilt : ndarray `(T,)`, optional
        Degrees: rotation about x, applied before the tilt.
    magnification : ndarray `(T, 2, 2)`, optional
        Linear image distortion L; identity by default.
    deformation : deformation.Deformation, optional
        What moves and turns locally in addition; of the same tilts.
    defocus_slope : float
        How much it does so, per angstrom of depth: rlnTomoDefocusSlope.
    dose_bfactor : float
        A^2 per e/A^2: how a dose damps frequencies, ``exp(-B dose k^2 / 4)``, rlnCtfBfactorPerElectronDose; 0 leaves
        it to what an operation does without.

    Raises
    ------
    InputError
        If lengths differ, a number is not finite, or a value has no meaning.
    """

    ts_id: str
    image_shape: Tuple[int, int]
    pixel_size: float
    tilt: np.ndarray
    axis: np.ndarray
    shift: np.ndarray
    dose: np.ndarray
    volume_size: Tuple[float, float, float]
    hand: int = -1
    acq_order: np.ndarray = None  # type: ignore[assignment]  # None gives that of dose
    used: np.ndarray = None  # type: ignore[assignment]  # None gives all
    xtilt: np.ndarray = None  # type: ignore[assignment]  # None gives zeros
    magnification: np.ndarray = None  # type: ignore[assignment]  # None gives the identity
    deformation: Optional["Deformation"] = None
    defocus_slope: float = 1.0
    dose_bfactor: float = 0.0
    rotation: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  frozen
        tilt = np.atleast_1d(np.array(self.tilt, np.float64))
        n = len(tilt)
        if n == 0:
            raise InputError(self.ts_id, "it has no tilt images", "Give a series with at least one tilt")
        put("tilt", tilt)
        put("axis", self._shaped("axis", np.broadcast_to(self.axis, (n,)) if np.ndim(self.axis) == 0 else self.axis,
                                 (n,)))
        put("shift", self._shaped("shift", self.shift, (n, 2)))
        put("dose", self._shaped("dose", self.dose, (n,)))
        put("xtilt", np.zeros(n) if self.xtilt is None else self._shaped("xtilt", self.xtilt, (n,)))
        identity = np.broadcast_to(np.eye(2), (n, 2, 2))
        put("magnification", identity if self.magnification is None
            else self._shaped("magnification", self.magnification, (n, 2, 2)))
        put("used", np.ones(n, bool) if self.used is None else np.array(self.used, bool))
        order = np.lexsort((np.arange(n), self.dose)).argsort() if self.acq_order is None else self.acq_order
        put("acq_order", np.array(order, np.int64))
        put("image_shape", (int(self.image_shape[0]), int(self.image_shape[1])))
        put("pixel_size", float(self.pixel_size))
        put("volume_size", tuple(float(v) for v in self.volume_size))
        for name in ("used", "acq_order"):
            if getattr(self, name).shape != (n,):
                raise InputError(self.ts_id, "%s has %d values for %d tilts" % (name, getattr(self, name).size, n),
                                 "Give one value per tilt")
        for name in ("tilt", "axis", "shift", "dose", "xtilt", "magnification"):
            bad = np.flatnonzero(~np.isfinite(getattr(self, name).reshape(n, -1)).all(axis=1))
            if len(bad):
                raise InputError(self.ts_id, "%s of tilt %s is not a finite number"
                                 % (name, ", ".join(str(i + 1) for i in bad[:8])), "Correct the alignment table")
        if self.deformation is not None and self.deformation.n_tilts != n:
            raise InputError(self.ts_id, "deformation of %d tilts for %d" % (self.deformation.n_tilts, n),
                             "Give one of the same tilts")
        if not self.pixel_size > 0:
            raise InputError(self.ts_id, "pixel size %g A" % self.pixel_size, "Give a pixel size above 0")
        if self.hand not in (1, -1):
            raise InputError(self.ts_id, "hand %s" % self.hand, "The hand is +1 or -1 (rlnTomoHand)")
        put("hand", int(self.hand))
        for name, least in (("defocus_slope", -np.inf), ("dose_bfactor", 0.0)):
            value = float(getattr(self, name))
            if not (np.isfinite(value) and value >= least):
                raise InputError(self.ts_id, "%s is %g" % (name.replace("_", " "), value), "Correct the table")
            put(name, value)
        for name, most in LARGEST.items():
            largest = max(getattr(self, name), key=abs)
            if abs(largest) > most:
                raise InputError(self.ts_id, "%s of %g degrees" % (name, largest), "Correct the alignment table")
        odd = self.dose[(self.dose < -LEAST_DOSE) | (self.dose > MOST_DOSE)]
        if len(odd):
            raise InputError(self.ts_id, "dose of %g e/A^2" % odd[0], "Correct the dose before each exposure")
        if len(np.unique(self.acq_order)) != n:
            raise InputError(self.ts_id, "two tilts have the same acquisition order", "Number the exposures 1 to T")
        if len(self.volume_size) != 3 or not min(self.volume_size) > 0:
            raise InputError(self.ts_id, "tomogram size %s A" % (self.volume_size,), "Give three sizes above 0")
        if np.linalg.det(self.magnification).min() < 1e-3:
            raise InputError(self.ts_id, "the alignment matrix of a tilt is singular or mirrors the image",
                             "Correct the alignment table; a mirrored stack must be mirrored back first")
        put("rotation", rotation_z(self.axis) @ rotation_y(self.tilt) @ rotation_x(self.xtilt))
        for name in ("tilt", "axis", "shift", "dose", "xtilt", "magnification", "used", "acq_order", "rotation"):
            array = getattr(self, name)
            if array.flags.writeable:
                array.flags.writeable = False

    def _shaped(self, name: str, value: ArrayLike, shape: Tuple[int, ...]) -> np.ndarray:
        array = np.array(value, np.float64)
        if array.shape != shape:
            raise InputError(self.ts_id, "%s has shape %s, expected %s" % (name, array.shape, shape),
                             "Give one value per tilt")
        return array

    def numbers(self) -> Dict[str, Any]:
        """Every field as plain values, for fingerprints.

        Returns
        -------
        dict
            By the field's name.
        """
        return fields_of(self)

    def defocus_shift(self, depth: ArrayLike) -> np.ndarray:
        """What a depth adds to the defocus.

        Parameters
        ----------
        depth : ndarray `(...)`
            Angstrom, as `Projection` has it.

        Returns
        -------
        ndarray `(...)`
            Angstrom: ``hand * slope * depth``.
        """
        return self.hand * self.defocus_slope * np.asarray(depth)

    @property
    def n_tilts(self) -> int:
        """Number of tilts T, excluded views included."""
        return len(self.tilt)

    @property
    def size_px(self) -> np.ndarray:
        """`(3,)` of int: unbinned voxels of the tomogram, xyz."""
        return np.rint(np.array(self.volume_size) / self.pixel_size).astype(int)

    @property
    def centre(self) -> np.ndarray:
        """`(3,)`: angstrom from the tomogram's first voxel to its centre, unbinned voxel N//2; xyz."""
        return self.size_px // 2 * self.pixel_size

    @property
    def matrix(self) -> np.ndarray:
        """`(T, 2, 3)`: image displacement of a displacement in the tomogram, ``L R[:2]``."""
        return self.magnification @ self.rotation[:, :2]

    def select(self, mask: Union[np.ndarray, Sequence[int]]) -> "TiltSeriesGeometry":
        """The series with some of its tilts only.

        Parameters
        ----------
        mask : ndarray `(T,)` of bool, or of indices
            Indices also set the order.

        Returns
        -------
        TiltSeriesGeometry

        Raises
        ------
        InputError
            If no tilt is left.
        """
        index = np.arange(self.n_tilts)[mask]
        if len(index) == 0:
            raise InputError(self.ts_id, "no tilt is left", "Include at least one view that has data and a CTF")
        return replace(self, deformation=None if self.deformation is None else self.deformation.select(index),
                       **{name: getattr(self, name)[index] for name in
                          ("tilt", "axis", "shift", "dose", "acq_order", "used", "xtilt", "magnification")})

    def replace(self, **changes: Any) -> "TiltSeriesGeometry":
        """The series with other values of the named fields.

        Parameters
        ----------
        **changes
            Field names and values.

        Returns
        -------
        TiltSeriesGeometry

        Raises
        ------
        InputError
            As the class.
        """
        return replace(self, **changes)

    def project(self, points: np.ndarray, rotations: Optional[np.ndarray] = None) -> Projection:
        """Project points, deformation included.

        Parameters
        ----------
        points : ndarray `(N, 3)` or `(N, T, 3)`
            Angstrom, xyz from the tomogram centre; `(N, T, 3)` for points that are elsewhere in every tilt.
        rotations : ndarray `(N, 3, 3)` or `(N, T, 3, 3)`, optional
            Frame of each particle; ``matrix`` of the result then takes displacements in that frame.

        Returns
        -------
        Projection
        """
        points = np.asarray(points, np.float64)
        points = points if points.ndim == 3 else points.reshape(-1, 1, 3)
        matrix, place = self.matrix[None], points
        if self.deformation is not None:
            place, local = self.deformation.displaced(points), self.deformation.rotation(points)
            if local is not None:
                matrix = self.magnification @ (local @ self.rotation)[..., :2, :]
        turned = np.einsum("tij,ntj->nti", self.rotation, place)
        xy = np.einsum("tij,ntj->nti", self.magnification, turned[..., :2]) + self.shift
        if self.deformation is not None:
            xy = self.deformation.moved(xy)
        if rotations is not None:
            rotations = np.asarray(rotations, np.float64)
            matrix = matrix @ (rotations if rotations.ndim == 4 else rotations[:, None])
        return Projection(xy, turned[..., 2], matrix)

    def coverage(self, xy: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Tell which projected points lie in the image.

        Parameters
        ----------
        xy : ndarray `(..., 2)`
            Angstrom from the image centre.
        margin : float
            Angstrom by which a point must lie inside.

        Returns
        -------
        ndarray `(...)` of bool
        """
        h, w = self.image_shape
        px = np.asarray(xy) / self.pixel_size
        m = margin / self.pixel_size
        x, y = px[..., 0] + w // 2, px[..., 1] + h // 2
        return (x >= m) & (x <= w - 1 - m) & (y >= m) & (y <= h - 1 - m)


def from_projection_matrices(matrices: np.ndarray, image_shape: Sequence[int], pixel_size: float,
                             size_px: Sequence[int]) -> Dict[str, np.ndarray]:
    """Decompose RELION 4 projection matrices into angles and shifts.

    Parameters
    ----------
    matrices : ndarray `(T, 4, 4)`
        Rows rlnTomoProjX, Y, Z, W: unbinned tomogram voxel (from its corner) to image pixel (from its corner).
    image_shape : (int, int)
        Height and width of the images, pixels.
    pixel_size : float
        Angstrom per pixel of images and of the unbinned tomogram.
    size_px : (int, int, int)
        Tomogram size xyz, unbinned voxels.

    Returns
    -------
    dict
        ``tilt``, ``axis``, ``xtilt`` `(T,)` degrees, ``shift`` `(T, 2)` A and ``magnification`` `(T, 2, 2)`.

    Notes
    -----
    ``p = P [v 1]`` with centres at N//2 gives ``shift = (p(centre) - N//2) * pixel_size``; the upper 3x3 part is
    ``L Rz Ry Rx``.
    """
    matrices = np.asarray(matrices, np.float64)
    h, w = image_shape
    centre = np.array([s // 2 for s in size_px] + [1.0])
    shift = ((matrices @ centre)[:, :2] - (w // 2, h // 2)) * pixel_size
    # Rows of L R[:2]: the symmetric polar factor is the distortion, the orthonormal one is the rotation.
    part = matrices[:, :2, :3]
    u, s, vt = np.linalg.svd(part, full_matrices=False)
    rows = u @ vt
    rotation = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    magnification = (u * s[:, None]) @ np.swapaxes(u, 1, 2)
    axis, tilt, xtilt = angles_from_rotation(rotation)
    return {"tilt": tilt, "axis": axis, "xtilt": xtilt, "shift": shift, "magnification": magnification}


def angles_from_rotation(rotation: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles of ``Rz(axis) Ry(tilt) Rx(xtilt)``.

    Parameters
    ----------
    rotation : ndarray `(..., 3, 3)`

    Returns
    -------
    axis, tilt, xtilt : ndarray `(...)`
        Degrees; tilt within -90 to 90.
    """
    tilt = np.rad2deg(np.arcsin(np.clip(-rotation[..., 2, 0], -1, 1)))
    axis = np.rad2deg(np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0]))
    xtilt = np.rad2deg(np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2]))
    return axis, tilt, xtilt


def projection_matrices(geometry: TiltSeriesGeometry) -> np.ndarray:
    """RELION 4 projection matrices of a tilt series.

    Parameters
    ----------
    geometry : TiltSeriesGeometry

    Returns
    -------
    ndarray `(T, 4, 4)`
        Unbinned tomogram voxel from its corner to image pixel from its corner, and depth from the tomogram's centre.
    """
    n = geometry.n_tilts
    out = np.zeros((n, 4, 4))
    full = geometry.rotation.copy()
    full[:, :2] = geometry.matrix
    out[:, :3, :3] = full
    centre = geometry.centre / geometry.pixel_size
    h, w = geometry.image_shape
    out[:, :3, 3] = -np.einsum("tij,j->ti", full, centre)
    out[:, :2, 3] += geometry.shift / geometry.pixel_size + (w // 2, h // 2)
    out[:, 3, 3] = 1.0
    return out


def from_imod_transform(transform: np.ndarray, image_shape: Sequence[int], pixel_size: float,
                        centre: str = "imod") -> Dict[str, np.ndarray]:
    """Axis, shift and distortion of IMOD alignment transforms.

    Parameters
    ----------
    transform : ndarray `(T, 3, 3)` or `(T, 2, 3)`
        ``[A d]``, raw to aligned, d in pixels.
    image_shape : (int, int)
        Height and width of the images that are transformed, pixels.
    pixel_size : float
        Angstrom per pixel of the transform.
    centre : {'imod', 'relion'}
        What the transform is about: IMOD's own image centre (N-1)/2, or pixel N//2, as programs that drop the half
        pixel write it.

    Returns
    -------
    dict
        ``axis`` `(T,)` degrees, ``shift`` `(T, 2)` A, ``magnification`` `(T, 2, 2)`.

    Notes
    -----
    ``shift = -(A^-1 d + 1/2) pixel_size`` along even image sides, IMOD's centre being half a pixel below N//2; along
    an odd side both centres are the same pixel.
    """
    transform = np.asarray(transform, np.float64)
    a, d = transform[:, :2, :2], transform[:, :2, 2]
    inverse = np.linalg.inv(a)
    half: Any = {"imod": _half_pixel(image_shape), "relion": 0.0}[centre]
    shift = -(np.einsum("tij,tj->ti", inverse, d) + half) * pixel_size
    axis = np.rad2deg(np.arctan2(a[:, 0, 1], a[:, 0, 0]))
    magnification = inverse @ rotation_z(-axis)[:, :2, :2]
    return {"axis": axis, "shift": shift, "magnification": magnification}


def _half_pixel(image_shape: Sequence[int]) -> np.ndarray:
    """How far IMOD's centre (N-1)/2 lies below N//2, xy, pixels."""
    return np.array([0.5 * (side % 2 == 0) for side in image_shape[::-1]])


def to_imod_transform(geometry: TiltSeriesGeometry) -> np.ndarray:
    """IMOD alignment transforms of a tilt series, about IMOD's own image centre.

    Parameters
    ----------
    geometry : TiltSeriesGeometry

    Returns
    -------
    ndarray `(T, 3, 3)`
        ``[[A, d], [0 0 1]]`` with d in pixels; the inverse of `from_imod_transform`.
    """
    linear = geometry.magnification @ rotation_z(geometry.axis)[:, :2, :2]
    a = np.linalg.inv(linear)
    out = np.zeros((geometry.n_tilts, 3, 3))
    out[:, :2, :2] = a
    out[:, :2, 2] = -np.einsum(
        "tij,tj->ti", a, geometry.shift / geometry.pixel_size + _half_pixel(geometry.image_shape)
    )
    out[:, 2, 2] = 1.0
    return out
