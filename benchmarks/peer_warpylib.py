"""Run warpylib on a data set of `common.py`; started in the peer's own environment (`setup_peer.sh`).

    peer_warpylib.py JOB DATA.npz OUT.npz [--threads N] [--batch B] [--oversampling V C] [--no-ctf] [--device cuda]

JOB is `subtomo` (a sub-volume and a 3D CTF per particle), `tomogram` (`reconstruct_full`) or `gridding` (the bare
insertion of slices, for its error; CPU only). Prints one line of JSON with the seconds that the calls took, after a
first call that is not counted, and writes what was computed to OUT.npz. On a GPU the sub-volumes and 3D CTFs stay there
while the time runs; `reconstruct_full` brings its tiles to the host itself.

What is translated: warpylib's tilt angle is minus IMOD's, its positions count from the corner of the volume, its
defocus is in micrometers, and `are_angles_inverted` is a defocus hand of -1.
"""

import argparse
import json
import time

import numpy as np
import torch
import torch_projectors
import warpylib
from warpylib.cubic_grid import CubicGrid
from warpylib.ops import get_sinc2_correction
from warpylib.tilt_series import TiltSeries
from warpylib.tilt_series.reconstruct_subvolumes import ifftshift_and_crop_3d


def tensor(array, device="cpu"):
    return torch.tensor(np.asarray(array), dtype=torch.float32, device=device)


def now(args):
    """Time, when the device has done all that it was given."""
    if args.device != "cpu":
        torch.cuda.synchronize(args.device)
    return time.perf_counter()


def tilt_series(data):
    """Build the peer's tilt series from the arrays of `common.save`."""
    t, h, w = data["images"].shape
    pixel = float(data["pixel_size"])
    ts = TiltSeries(n_tilts=t, image_dimensions_physical=tensor([w * pixel, h * pixel]),
                    volume_dimensions_physical=tensor(data["volume_size"]))
    ts.angles = tensor(-data["tilt"])
    ts.tilt_axis_angles = tensor(data["axis"])
    ts.tilt_axis_offset_x, ts.tilt_axis_offset_y = tensor(data["shift"]).unbind(1)
    ts.dose = tensor(data["dose"])
    ts.are_angles_inverted = int(data["hand"]) < 0
    ts.ctf.voltage, ts.ctf.cs = float(data["voltage"]), float(data["cs"])
    ts.ctf.amplitude, ts.ctf.pixel_size = float(data["amplitude_contrast"]), pixel
    per_tilt = lambda values: CubicGrid((1, 1, t), tensor(values))  # noqa: E731
    ts.grid_ctf_defocus = per_tilt((data["defocus_u"] + data["defocus_v"]) / 2e4)
    ts.grid_ctf_defocus_delta = per_tilt((data["defocus_u"] - data["defocus_v"]) / 1e4)
    ts.grid_ctf_defocus_angle = per_tilt(data["astigmatism"])
    return ts


def subtomo(ts, data, args):
    """Sub-volumes and 3D CTFs of all particles; seconds of each."""
    images, pixel, box = tensor(data["images"], args.device), float(data["pixel_size"]), int(data["box"])
    points = tensor(data["position"] + data["volume_size"] / 2, args.device)
    for_volume, for_ctf = args.oversampling

    def volumes(at):
        return ts.reconstruct_subvolumes_single(images, at, pixel, box, oversampling=for_volume, apply_ctf=args.ctf,
                                                correct_attenuation=True)

    def transfer(at):
        return ts.reconstruct_subvolume_ctfs_single(at, pixel, box, oversampling=for_ctf, apply_ctf=args.ctf)

    seconds, results = [], []
    for function in (volumes, transfer):
        function(points[:args.batch])
        start = now(args)
        found = torch.cat([function(part) for part in points.split(args.batch)])
        seconds.append(now(args) - start)
        results.append(found.cpu().numpy())
        del found
    return seconds, dict(volumes=results[0], transfer=results[1])


def tomogram(ts, data, args):
    """The whole tomogram at the pixel size of the images; seconds."""
    images, pixel = tensor(data["images"], args.device), float(data["pixel_size"])

    def reconstruct(size):
        return ts.reconstruct_full(images, pixel, tuple(float(s) for s in size), apply_ctf=args.ctf,
                                   batch_size=args.batch)

    reconstruct([128 * pixel, 64 * pixel, 64 * pixel])
    start = now(args)
    volume = reconstruct(data["volume_size"]).cpu().numpy()  # it is on the CPU already
    return [now(args) - start], dict(tomogram=volume)


def gridding(ts, data, args):
    """Slices inserted with weight 1 and nothing divided out but the interpolation; as the peer calls its kernel."""
    box = int(data["box"])
    size = int(box * args.oversampling[0])
    pad = (size - box) // 2
    windows = torch.nn.functional.pad(tensor(data["images"]), (pad, pad, pad, pad))
    slices = torch.fft.rfft2(torch.fft.ifftshift(windows, dim=(1, 2)))[None]
    centre = tensor(data["volume_size"] / 2).expand(1, ts.n_tilts, 3)
    rotations = ts.get_rotation_matrices_in_all_tilts(coords=centre)
    grid, _ = torch_projectors.backproject_2d_to_3d_forw(
        slices, rotations.transpose(-2, -1), torch.ones(slices.shape), torch.zeros(1, ts.n_tilts, 2))
    real = ifftshift_and_crop_3d(torch.fft.irfftn(grid, dim=(-3, -2, -1)), size / box)[0]
    return [], dict(numerator=(real * get_sinc2_correction((box,) * 3, oversampling=size / box)).numpy())


JOBS = {"subtomo": subtomo, "tomogram": tomogram, "gridding": gridding}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=tuple(JOBS))
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="particles or tiles of one call")
    parser.add_argument("--oversampling", type=float, nargs=2, default=(2.0, 2.0), metavar=("V", "C"),
                        help="of the sub-volumes and of the 3D CTFs")
    parser.add_argument("--no-ctf", dest="ctf", action="store_false")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, as torch takes it")
    args = parser.parse_args()
    if args.job == "gridding" and args.device != "cpu":
        parser.error("gridding runs on the CPU")
    if args.device != "cpu":
        torch.cuda.set_device(torch.device(args.device).index or 0)  # for kernels that look at the current device
    torch.set_num_threads(args.threads)
    with np.load(args.data) as archive:
        data = {name: archive[name] for name in archive.files}
    with torch.no_grad():
        seconds, results = JOBS[args.job](tilt_series(data).to(torch.device(args.device)), data, args)
    np.savez(args.out, **results)
    print(json.dumps(dict(seconds=seconds, versions=dict(
        warpylib=warpylib.__version__, torch=torch.__version__, torch_projectors=torch_projectors.__version__))))


if __name__ == "__main__":
    main()
