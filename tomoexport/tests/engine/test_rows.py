"""Rows of filtered tilt images, against sums of Fourier series that need no interpolation."""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics, frequency_grid
from tomoexport.engine.preprocess import PreparedStack
from tomoexport.engine.rows import RowSampler
from tomoexport.engine.tomogram import reconstruct_tomogram, setup_tomogram
from tomoexport.engine.weights import envelope, exact_filter
from tomoexport.errors import InputError
from tomoexport.tests.engine.test_tomogram import series

pytestmark = pytest.mark.slow

PIXEL = 4.0


def noise(rng, n=9, shape=(96, 80)):
    images = rng.standard_normal((n,) + shape).astype(np.float32)
    return PreparedStack(images, (PIXEL, PIXEL), np.zeros(n, bool), np.zeros(n, int))


def optics(n=9):
    return Ctf(Optics(), np.linspace(1.5e4, 2.5e4, n), np.linspace(1.4e4, 2.6e4, n), np.linspace(0, 80, n))


class Exact:
    """The Fourier series of an image, filtered: its values at any points."""

    def __init__(self, stack, t, sampler, factor):
        h, w = stack.images.shape[1:]
        padded = np.zeros(sampler.padded)
        y, x = sampler.padded[0] // 2 - h // 2, sampler.padded[1] // 2 - w // 2
        padded[y:y + h, x:x + w] = stack.images[t]
        ky, kx = np.fft.fftfreq(padded.shape[0], PIXEL), np.fft.fftfreq(padded.shape[1], PIXEL)
        ky, kx = np.meshgrid(ky, kx, indexing="ij")
        k = np.hypot(kx, ky) * 2 * PIXEL
        edge = np.where(k < 1, 0.5 + 0.5 * np.cos(np.pi * np.clip((k - 0.95) / 0.05, 0, 1)), 0)
        values = np.fft.fft2(np.fft.ifftshift(padded)) * edge * factor(kx, ky) / padded.size
        some = np.abs(values) > 0
        self.kx, self.ky, self.values = kx[some], ky[some], values[some]

    def __call__(self, xy):
        """Values at points `(N, 2)`, angstrom from the image centre."""
        out = np.empty(len(xy))
        for i in range(0, len(xy), 500):
            turn = np.outer(xy[i:i + 500, 0], self.kx) + np.outer(xy[i:i + 500, 1], self.ky)
            out[i:i + 500] = (np.exp(2j * np.pi * turn) @ self.values).real
        return out


def error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_samples_are_the_values_of_the_image_there(rng, cpu):
    g, stack = series(rng), noise(rng)
    sampler = RowSampler(stack, g, optics(), setup_tomogram(g, 5.3), cpu, "wiener", True, False, 2)
    lattice = sampler.lattice
    rows = np.zeros((1,) + lattice.rows_shape(1, 16), np.float32)
    for t in (0, 6):
        sampler.fill(t, [20], rows)
        depth = g.hand * (sampler.plan.slab_start + 0.5 * sampler.plan.slab_height)

        def factor(kx, ky, t=t, depth=depth):
            c = optics().select([t]).values(kx, ky, depth)[0]
            return c / (c * c + 0.1) * np.exp(-g.dose[t] * (kx ** 2 + ky ** 2))
        u, v = np.meshgrid(np.arange(40, 90, 3), np.arange(16), indexing="ij")
        where = (lattice.origin[t] + u[..., None] * lattice.across[t] + (20 + v[..., None]) * lattice.along[t])
        expected = Exact(stack, t, sampler, factor)(where.reshape(-1, 2)).reshape(u.shape)
        assert error(rows[0, t, 0, u, 0, v], expected) < 0.006


@pytest.mark.parametrize("change, limit", [({}, 0.05), ({"xtilt": np.full(9, 4.0)}, 0.065),
                                           ({"axis": np.linspace(15, 25, 9)}, 0.05)],
                         ids=["straight", "x-tilt", "axis per tilt"])
def test_back_projection_against_exact_sums(rng, cpu, change, limit):
    """White noise, every frequency up to Nyquist: the worst case for interpolation."""
    g, stack = series(rng, **change), noise(rng)
    plan = setup_tomogram(g, PIXEL)
    volume, = reconstruct_tomogram(stack, g, None, plan, cpu, "none", True)
    sampler = RowSampler(stack, g, None, plan, cpu, "none", True, True, 2)
    index = np.stack(np.meshgrid(np.arange(10, 34, 5), np.arange(20, 50, 4), np.arange(16, 44), indexing="ij"), -1)
    index = index.reshape(-1, 3)
    xy = g.project((index[:, ::-1] - plan.centre) * PIXEL).xy
    total = np.zeros(len(index))
    across = exact_filter(sampler.angle, np.linspace(0, 0.3, 20001), plan.shape[0] * PIXEL)
    for t in range(9):
        def factor(kx, ky, t=t):
            u = np.abs(sampler.direction[t, 0] * kx + sampler.direction[t, 1] * ky)
            weight = envelope(g.select([t]), kx ** 2 + ky ** 2)[0]
            return weight * np.interp(u, np.linspace(0, 0.3, 20001), across[t])
        total += Exact(stack, t, sampler, factor)(xy[:, t])
    assert error(volume[tuple(index.T)], total / plan.shape[0]) < limit


@pytest.mark.parametrize("change", [{}, {"xtilt": np.full(9, 4.0)}], ids=["straight", "x-tilt"])
@pytest.mark.parametrize("sirt", [0, 3])
def test_little_memory_gives_the_same_in_smaller_pieces(rng, cpu, change, sirt):
    g, stack = series(rng, **change), noise(rng)
    plan = setup_tomogram(g, PIXEL, optics())
    common = (stack, g, optics(), plan, cpu)
    group = np.arange(9) % 2
    whole = reconstruct_tomogram(*common, group=group, sirt=sirt)
    sizes = []

    def put(z, y, pieces):
        sizes.append(pieces[0].nbytes)
        for volume, piece in zip(small, pieces):
            assert np.isnan(volume[z:z + piece.shape[0], y:y + piece.shape[1]]).all()
            volume[z:z + piece.shape[0], y:y + piece.shape[1]] = piece
    small = [np.full(plan.shape, np.nan, np.float32) for _ in range(3)]
    with pytest.raises(InputError, match="--memory: the smallest piece"):
        reconstruct_tomogram(*common, group=group, sirt=sirt, memory=100000)
    with pytest.raises(InputError) as told:
        reconstruct_tomogram(*common, group=group, sirt=sirt, memory=100000)
    least = float(str(told.value).split("needs ")[1].split(" GB")[0]) * 1e9
    reconstruct_tomogram(*common, group=group, sirt=sirt, memory=int(1.1 * least), put=put)
    assert len(sizes) > 3 or sirt and change  # then all of the volume is needed at once
    for a, b in zip(whole, small):
        # Slabs of depth are cut in the middle of a block of y; here there is one slab.
        assert plan.n_slabs == 1 and np.abs(a - b).max() < 2e-5 * a.std() * (10 if sirt else 1)


def test_progress_adds_up(rng, cpu):
    g, stack = series(rng), noise(rng)
    plan = setup_tomogram(g, 8.0)
    for sirt in (0, 4):
        done = []
        reconstruct_tomogram(stack, g, None, plan, cpu, "none", progress=done.append, sirt=sirt)
        assert abs(sum(done) - plan.shape[1]) < 1e-6


def test_a_beam_along_y_is_refused(rng, cpu):
    g = series(rng, xtilt=np.full(9, 89.0), tilt=np.zeros(9))
    with pytest.raises(InputError, match="beam runs along the y axis"):
        reconstruct_tomogram(noise(rng), g, None, setup_tomogram(g, 8.0), cpu, "none")


def test_frequencies_are_those_of_the_padded_image(rng, cpu):
    g = series(rng)
    sampler = RowSampler(noise(rng), g, None, setup_tomogram(g, 8.0), cpu, "none", False, False, 1)
    kx, ky = frequency_grid(sampler.padded, PIXEL)
    assert np.allclose(kx[0, 1], sampler.step[1]) and np.allclose(ky[1, 0], sampler.step[0])
