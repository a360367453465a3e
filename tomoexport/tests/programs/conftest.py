"""What other programs are given to read: exports of the data of `make demo`."""

import os

import pytest

from tomoexport.engine.phantom import chiral_phantom
from tomoexport.jobs import runner, simulate

PIXEL, BOX = 5.0, 44  # of image series


@pytest.fixture(scope="session")
def data(tmp_path_factory, simulated):
    """Folder of two tilt series, both hands, x-tilt, astigmatism, noise twice the signal, 180 particles."""
    folder = tmp_path_factory.mktemp("readers")
    simulated("demo", into=folder)
    return str(folder)


@pytest.fixture(scope="session")
def phantom():
    preset = simulate.PRESETS["demo"]
    return chiral_phantom(preset["diameter"], preset["blobs"])


@pytest.fixture(scope="session")
def export(data):
    """Run a verb on the data or, by its options, on other tables."""
    def run(verb, output, **options):
        out = runner.run({"verb": verb, "options": dict(
            {"tomograms": os.path.join(data, "tomograms.star"), "particles": os.path.join(data, "particles.star"),
             "output": str(output), "threads": 2}, **options)})
        assert not out["failed"], out["results"]
        return out["collected"]
    return run


@pytest.fixture(scope="session")
def image_series(export, tmp_path_factory):
    """Table of the exported image series; particles have from 17 to 41 images."""
    return export("series", tmp_path_factory.mktemp("series"), pixel_size=PIXEL, box=BOX, diameter=180.0)["star"]
