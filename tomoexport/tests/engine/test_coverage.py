"""Fully covered voxels against the projection of each of them."""

import numpy as np
import pytest

from tomoexport.engine.coverage import covered_columns, keep_covered
from tomoexport.engine.geometry import TiltSeriesGeometry
from tomoexport.engine.tomogram import setup_tomogram


@pytest.mark.parametrize("axis, xtilt", [(85.0, 0.0), (0.0, 0.0), (-90.0, 4.0), (33.0, -3.0)])
def test_voxels_are_kept_where_every_tilt_shows_them(axis, xtilt):
    n = 7
    geometry = TiltSeriesGeometry("a", (120, 100), 8.0, np.linspace(-50, 50, n), axis, np.linspace(-60, 90, 2 * n)
                                  .reshape(n, 2), np.arange(n) * 3.0, (700.0, 800.0, 300.0), xtilt=np.full(n, xtilt))
    plan = setup_tomogram(geometry, 20.0)
    nz, ny, nx = plan.shape
    first, stop = covered_columns(geometry, plan, np.arange(nz), np.arange(ny))
    x, y, z = np.meshgrid(np.arange(nx), np.arange(ny), np.arange(nz), indexing="ij")
    points = (np.stack([x, y, z], -1) - plan.centre) * plan.pixel_size
    px = geometry.project(points.reshape(-1, 3)).xy / geometry.pixel_size + np.array([50, 60])
    slack = 1e-6  # of rounding
    seen = ((px > -slack) & (px < np.array([99, 119]) + slack)).all(axis=(1, 2)).reshape(nx, ny, nz).transpose(2, 1, 0)
    found = (np.arange(nx) >= first[..., None]) & (np.arange(nx) < stop[..., None])
    assert np.array_equal(found, seen) and 0.05 < seen.mean() < 0.99

    pieces = [np.ones((5, 9, nx), np.float32), np.full((5, 9, nx), 2, np.float32)]
    keep_covered(geometry, plan, 3, 11, pieces)
    for value, piece in zip((1, 2), pieces):
        assert np.array_equal(piece, value * seen[3:8, 11:20].astype(np.float32))
