"""Six tilt series, and a SLURM on this computer."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tomoexport.tests.sources import rewrite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def six(simulated, tmp_path_factory):
    """A project of six tilt series: three times two, each under a name of its own."""
    folder = simulated("tiny", into=tmp_path_factory.mktemp("six"))
    for path, split in ((folder / "tomograms.star", "rlnTomoName"), (folder / "particles.star", "rlnTomoParticleName")):
        def change(columns, split=split):
            rows = len(columns[split])
            for name, values in columns.items():
                columns[name] = values * 3
            for i in range(rows, 3 * rows):
                before = columns["rlnTomoName"][i]
                after = "TS_%02d" % (int(before[-2:]) + 2 * (i // rows))
                columns["rlnTomoName"][i] = after
                columns[split][i] = columns[split][i].replace(before, after)
        rewrite(path, change)
    return folder


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A SLURM of three nodes with a core each, in the environment of this process until the end; its folder."""
    script, folder = ROOT / "tools" / "slurm_here.sh", tmp_path_factory.mktemp("slurm")
    places = os.environ["PATH"] + ":/usr/sbin"
    if not all(shutil.which(name, path=places) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
        pytest.skip("no SLURM: apt-get install slurmctld slurmd slurm-client munge")
    if os.getuid() != 0:
        pytest.skip("a SLURM of one's own takes root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")
        try:
            started = subprocess.run([str(script), "start", str(folder), "3", "1"], capture_output=True, text=True,
                                     timeout=120)
            assert started.returncode == 0, started.stdout + started.stderr
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield folder
        finally:
            subprocess.run([str(script), "stop", str(folder)], timeout=120)
