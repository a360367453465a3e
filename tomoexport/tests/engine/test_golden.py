"""Agreement with what other programs computed: warpylib 1.1.2 and RELION 5.

The full reference files lie beside the checkout; where they are absent, values derived from them stand in.
"""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import (
    TiltSeriesGeometry,
    from_imod_transform,
    from_projection_matrices,
    projection_matrices,
)
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.preprocess import prepare_stack
from tomoexport.engine.subtomo import reconstruct_subtomos, setup_subtomos
from tomoexport.engine.trilinear import reconstruct_trilinear, windows_at
from tomoexport.engine.turn import turn_series
from tomoexport.tests.shared import derived, need_shared, read_220728, shared


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.fixture(scope="module")
def peer():
    """Inputs and outputs of warpylib, whole or derived: then of one particle, in images that are 0 around it."""
    path = shared("reference", "warpylib", "series.npz")
    return dict(np.load(path)) if path else derived_peer()


def derived_peer():
    values = {k[9:]: v for k, v in derived().items() if k.startswith("warpylib_")}
    side = values["window"].shape[-1]
    images = np.zeros((len(values["dose"]), 192 + 2 * side, 192 + 2 * side), np.float32)
    for image, window, (y, x) in zip(images, values["window"], values["window_origin"] + side):
        image[y:y + side, x:x + side] = window
    return dict(values, images=images[:, side:-side, side:-side])


def peer_geometry(peer):
    # Warp's tilt is minus ours; it never inverts the angles here, so the hand is +1.
    pixel = float(peer["pixel_size"])
    return TiltSeriesGeometry("peer", (192, 192), pixel, -peer["tilt_angle_warp_deg"], peer["tilt_axis_angle_deg"],
                              peer["axis_offset_angstrom"], peer["dose"], peer["volume_size_angstrom"], hand=1)


def peer_ctf(peer):
    mean, half = peer["defocus_um"] * 1e4, float(peer["astigmatism_um"]) * 0.5e4
    optics = Optics(float(peer["voltage_kv"]), float(peer["cs_mm"]), float(peer["amplitude_contrast"]))
    return Ctf(optics, mean + half, mean - half, np.full(len(mean), float(peer["astigmatism_angle_deg"])))


def peer_points(peer):
    return peer["points_angstrom"] - peer["volume_size_angstrom"] / 2


def differences(peer, g):
    """Largest differences of positions, A, and defocus, nm, from warpylib's."""
    found = g.project(peer_points(peer))
    expected = peer["position_and_defocus"]
    defocus = peer["defocus_um"] * 1e3 + g.hand * found.depth / 10
    return (np.abs(found.xy + 96 * g.pixel_size - expected[..., :2]).max(),
            np.abs(defocus - expected[..., 2] * 1e3).max())


@pytest.mark.shared
def test_positions_and_defocus_are_warpylibs(peer):
    position, defocus = differences(peer, peer_geometry(peer))
    print("largest difference of positions %.5f A, of defocus %.5f nm" % (position, defocus))
    assert position < 0.01 and defocus < 0.1


@pytest.mark.shared
@pytest.mark.parametrize("wrong", ["tilt", "hand", "axis"])
def test_a_wrong_sign_is_noticed(peer, wrong):
    g = peer_geometry(peer)
    position, defocus = differences(peer, g.replace(**{wrong: -getattr(g, wrong)}))
    assert position > 100 or defocus > 10


def windows(peer, size, count):
    g = peer_geometry(peer)
    xy = g.project(peer_points(peer)).xy[:count]
    images = peer["images"].astype(np.float32)
    return [windows_at(images, (one / g.pixel_size + 96)[:, ::-1], size) for one in xy]


def trilinear(peer, window, i, ctf, pose=None):
    g = peer_geometry(peer)
    depth = g.hand * g.project(peer_points(peer)).depth[i]
    matrix = g.matrix if pose is None else g.matrix @ pose
    return reconstruct_trilinear(window, g, ctf, depth, matrix, 32, g.pixel_size, denominator="warpylib", epsilon=1e-6,
                                 dose_weighting=ctf is not None)


@pytest.mark.shared
def test_3d_ctf_is_warpylibs(peer):
    """Needs no images: the slices are CTFs."""
    nothing = np.zeros((len(peer["dose"]), 64, 64), np.float32)
    found = [correlation(trilinear(peer, nothing, i, peer_ctf(peer))[1], c) for i, c in enumerate(peer["ctf3d"])]
    print("3D CTF: lowest cc %.6f of %d" % (min(found), len(found)))
    assert min(found) > 0.9999


@pytest.mark.shared
@pytest.mark.parametrize("name", ["subvolume_noctf", "subvolume_ctf", "subvolume_ctf_prerotated"])
def test_sub_volumes_are_warpylibs(peer, name):
    ctf = None if name == "subvolume_noctf" else peer_ctf(peer)
    poses = matrix_from_zyz(*np.rad2deg(peer["pose_zyz_rad"]).T)
    found = [correlation(trilinear(peer, w, i, ctf, poses[i] if "rotated" in name else None)[0], peer[name][i])
             for i, w in enumerate(windows(peer, 64, len(peer[name])))]
    print("%s: lowest cc %.5f, median %.5f of %d" % (name, min(found), np.median(found), len(found)))
    assert min(found) >= 0.9975 and np.median(found) >= 0.999


@pytest.mark.shared
@pytest.mark.parametrize("turn", [False, True])
def test_default_gridding_sees_the_same_particle(peer, cpu, turn):
    """Other weights and gridding: less alike than like with like, but the same thing in the same place."""
    need_shared("reference", "warpylib", "series.npz")
    g, ctf, images = peer_geometry(peer), peer_ctf(peer), peer["images"].astype(np.float32)
    position = (g.project(peer_points(peer)).xy / g.pixel_size + 96)[..., ::-1]
    if turn:
        turn, g, ctf = turn_series(g, ctf, g.pixel_size)
        stack = prepare_stack(lambda t: images[t].copy(), [g.ts_id] * len(images), g.pixel_size, g.pixel_size, False,
                              False, turn=turn)
        images, position = stack.images, stack.position_px(g.project(peer_points(peer)).xy)
    plan, depth = setup_subtomos(g, ctf, 32, 64, g.pixel_size, cpu), g.project(peer_points(peer)).depth
    assert (plan.terms is not None) == bool(turn)
    volumes, transfer = reconstruct_subtomos(images, plan, position, g.hand * depth, g.matrix[None],
                                             np.ones(depth.shape, bool), cpu)
    for i in range(len(volumes)):
        assert correlation(volumes[i], peer["subvolume_ctf"][i]) > 0.88
        assert correlation(transfer[i], peer["ctf3d"][i]) > 0.94
        spectrum = np.conj(np.fft.fftn(peer["subvolume_ctf"][i])) * np.fft.fftn(volumes[i])
        assert np.fft.ifftn(spectrum).real.argmax() == 0


def relion_truth(name):
    path = shared("reference", "relion5", "truth.npz")
    if path:
        return {k[6:]: v for k, v in np.load(path).items() if k.startswith(name)}
    return {k[len(name) + 1:]: v for k, v in derived().items() if k.startswith(name)}


def imod_route(name, shape, centre):
    """Largest distance, pixels, between particles projected through .xf and .tlt and by RELION's truth."""
    truth = relion_truth(name)
    folder = shared("reference", "relion5", "imod", name)
    if folder:
        xf, tilt, xtilt = (np.loadtxt(folder / (name + end)) for end in (".xf", ".tlt", ".xtilt"))
    else:
        xf, tilt, xtilt = truth["xf"], truth["tlt"], truth["xtilt"]
    transform = np.zeros((len(xf), 3, 3))
    transform[:, 0, :2], transform[:, 1, :2], transform[:, :2, 2] = xf[:, :2], xf[:, 2:4], xf[:, 4:]
    g = TiltSeriesGeometry(name, shape, 4.0, tilt, dose=np.arange(len(tilt)), volume_size=(1280, 1280, 640),
                           xtilt=xtilt, **from_imod_transform(transform, shape, 4.0, centre))
    expected = np.einsum("tij,nj->nti", truth["R"], truth["pos"])[..., :2] + truth["shift_A"]
    return np.abs(g.project(truth["pos"]).xy - expected).max() / 4.0


SHAPES = [("TS_01", (320, 320)), ("TS_02", (320, 256))]


@pytest.mark.shared
@pytest.mark.parametrize("name, shape", SHAPES)
def test_imod_route_meets_the_truth(name, shape):
    """.xf and .tlt, half pixel included, against rotations and shifts of the truth."""
    error = imod_route(name, shape, "imod")
    print("%s: IMOD's route differs by %.5f px at most" % (name, error))
    assert error < 0.01


@pytest.mark.shared
@pytest.mark.parametrize("name, shape", SHAPES)
def test_dropping_imods_half_pixel_is_noticed(name, shape):
    assert 0.3 < imod_route(name, shape, "relion") < 0.7


@pytest.mark.shared
@pytest.mark.parametrize("name", ["220728_TS_01", "220728_TS_03"])
def test_projection_matrices_are_relions(name):
    """Images of 3710 x 3838 px at 1.35 A, tomogram of 4000 x 4000 x 3000 px."""
    series = read_220728(name) or {k[len(name) + 1:]: v for k, v in derived().items() if k.startswith(name)}
    matrix, shape, pixel, size = series["matrix"], (3838, 3710), 1.35, np.array([4000, 4000, 3000])
    shift = np.stack([series["XShiftAngst"], series["YShiftAngst"]], -1)
    g = TiltSeriesGeometry(name, shape, pixel, series["YTilt"], series["ZRot"], shift, np.arange(len(shift)),
                           size * pixel, xtilt=series["XTilt"])
    corners = np.array(np.meshgrid(*[(0.0, s) for s in size], [1.0])).reshape(4, -1)
    expected, got = ((m @ corners)[:, :2] for m in (matrix, projection_matrices(g)))
    error = np.abs(got - expected).max()
    print("%s: projection matrices differ by %.6f px at most, at the corners of the volume" % (name, error))
    assert error < 1e-3
    back = g.replace(**from_projection_matrices(matrix, shape, pixel, tuple(size)))
    assert np.abs((projection_matrices(back) @ corners)[:, :2] - expected).max() < 1e-3


@pytest.mark.shared
def test_derived_values_agree_with_the_files():
    """What stands in for the reference files is up to date and good enough."""
    path = need_shared("reference", "warpylib", "series.npz")
    small, full = derived_peer(), np.load(path)
    for name in ("subvolume_noctf", "subvolume_ctf", "subvolume_ctf_prerotated"):
        assert correlation(small[name], full[name][:1]) > 0.999999
    assert np.abs(windows(small, 64, 1)[0] - windows(full, 64, 1)[0]).max() < 0.02
    rows = derived()["220728_TS_01_matrix"]
    assert np.array_equal(rows[0], read_220728("220728_TS_01")["matrix"][0])
