"""What the tests of files share: small tilt series, STAR files from text, and the folder of real files."""
from pathlib import Path

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import TiltSeriesGeometry
from tomoexport.io import mrc
from tomoexport.io.tiltseries import TiltSeries

OPTICS = Optics(300.0, 2.7, 0.1)


@pytest.fixture(scope="session")
def shared():
    """Folder of reference data beside the project, which not everyone has."""
    root = Path(__file__).resolve().parents[3]
    for folder in root.parents:
        if (folder / "shared" / "reference").is_dir():
            return folder / "shared"
    pytest.skip("the reference data (../shared beside the project) are absent")


@pytest.fixture
def make_series(tmp_path):
    """Write a stack of T images and describe it as a tilt series."""
    def make(ts_id="TS_01", n=3, shape=(10, 12), stack="stack.mrcs", ctf=True, **changes):
        rng = np.random.default_rng(n)
        path = str(tmp_path / stack)
        mrc.write(path, rng.normal(size=(n,) + shape), 1.7, kind="stack")
        fields = dict(
            image_shape=shape, pixel_size=1.7, tilt=np.linspace(-40, 40, n), axis=85 + rng.normal(size=n),
            shift=rng.normal(size=(n, 2)) * 30, dose=rng.permutation(n) * 3.1, xtilt=rng.normal(size=n),
            volume_size=(40 * 1.7, 60 * 1.7, 20 * 1.7), hand=-1)
        fields.update(changes)
        defocus = 30000 + rng.normal(size=n) * 100
        measured = Ctf(OPTICS, defocus, defocus - 250, rng.normal(size=n) * 30, np.full(n, 5.0), np.full(n, 2.5),
                       np.cos(np.deg2rad(fields["tilt"]))) if ctf else None
        return TiltSeries(TiltSeriesGeometry(ts_id, **fields), measured, tuple((path, i) for i in range(n)),
                          optics_group="group", optics=OPTICS)
    return make


@pytest.fixture
def star_file(tmp_path):
    """Write a text as a STAR file and return its path."""
    def make(text, name="file.star", **how):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode(**how))
        return str(path)
    return make
