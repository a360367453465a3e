"""A Scipion project whose steps are jobs of the SLURM that SLURM_CONF tells of; run by test_slurm.py.

    python -m scipion python on_slurm.py DATA SLURM_FOLDER

Prints, as its last line, JSON with what was seen.
"""

import json
import os
import subprocess
import sys
import time

from pyworkflow.project import Manager
from pyworkflow.protocol import MODE_RESUME, getProtocolFromDb

from tomoexport.protocols import (
    ProtTomoExportImportParticles,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportReconstruct,
    ProtTomoExportSubtomos,
)

PARAMETERS = ["main", {"JOB_TIME": "10", "JOB_CPUS": "1", "QUEUE_FOR_JOBS": "Y"}]


def prepared(project, protocol_class, queue=False, **values):
    """A protocol with its inputs; a tuple (protocol, output) is one."""
    pointers = {name: value for name, value in values.items() if isinstance(value, tuple)}
    protocol = project.newProtocol(protocol_class, **{k: v for k, v in values.items() if k not in pointers})
    for name, (source, output) in pointers.items():
        getattr(protocol, name).set(source)
        getattr(protocol, name).setExtended(output)
    if queue:
        protocol._useQueue.set(True)
        protocol.setQueueParams(PARAMETERS)
        protocol.numberOfThreads.set(4)
    errors = protocol.validate()
    if errors:
        sys.exit("; ".join(errors))
    return protocol


def jobs(*states):
    """Numbers and names of jobs in some states."""
    ended = subprocess.run(["squeue", "-h", "-t", ",".join(states), "-o", "%A %j"], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    return [line.split() for line in ended.stdout.splitlines()]


def watched(project, protocol, act=lambda running: None):
    """Run a protocol to its end; returns the protocol, its seconds and the most jobs that ran at once."""
    began, most = time.monotonic(), 0
    project.launchProtocol(protocol, wait=False)
    while True:
        time.sleep(0.3)
        running = jobs("RUNNING")
        most = max(most, len(running))
        act(running)
        found = getProtocolFromDb(project.path, protocol.getDbPath(), protocol.getObjId())
        if not found.isActive() and not found.isScheduled() and not found.isLaunched():
            break
        if time.monotonic() - began > 400:
            sys.exit("the protocol does not end")
    time.sleep(1)
    found = getProtocolFromDb(project.path, protocol.getDbPath(), protocol.getObjId())
    return found, time.monotonic() - began, most


def names(output):
    """Tilt series of a set."""
    return sorted(item.getTsId() for item in output.iterItems()) if output is not None else []


class CancelOne:
    """Cancels the first job that runs, once."""

    def __init__(self):
        self.cancelled = None

    def __call__(self, running):
        if running and self.cancelled is None:
            number, name = running[0]
            subprocess.run(["scancel", number], check=True)
            self.cancelled = name


class StopController:
    """Stops the controller for 20 s while jobs run, once."""

    def __init__(self, folder):
        self.folder, self.done = folder, False

    def __call__(self, running):
        if running and not self.done:
            self.done = True
            with open(os.path.join(self.folder, "slurmctld.pid")) as file:
                pid = int(file.read())
            os.kill(pid, 15)
            time.sleep(20)
            subprocess.run(["slurmctld"], check=True)
            time.sleep(2)


def main(data, folder):
    """Take six tilt series through the queue."""
    out = {}
    manager = Manager()
    if manager.hasProject("tomoexport_slurm"):
        manager.deleteProject("tomoexport_slurm")
    project = manager.createProject("tomoexport_slurm")
    os.chdir(project.path)
    imported = prepared(project, ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(data, "tomograms.star"))
    project.launchProtocol(imported, wait=True)
    inputs = dict(inputTiltSeries=(imported, "TiltSeries"), inputCtfs=(imported, "CTFs"))

    cancel = CancelOne()
    made = prepared(project, ProtTomoExportReconstruct, queue=True, pixelSize=16.0, **inputs)
    run = made
    made, seconds, most = watched(project, run, cancel)
    out["reconstruct"] = {"seconds": seconds, "at_once": most, "done": names(getattr(made, "Tomograms", None)),
                          "failed": names(getattr(made, "FailedTiltSeries", None)), "summary": made.summary()}
    run.runMode.set(MODE_RESUME)
    made, seconds, most = watched(project, run)
    out["continued"] = {"seconds": seconds, "at_once": most, "done": names(getattr(made, "Tomograms", None)),
                        "failed": names(getattr(made, "FailedTiltSeries", None)), "state": made.getStatus()}

    print(json.dumps(out), flush=True)
    project._updateProtocol(run)
    picked = prepared(project, ProtTomoExportImportParticles, filesPath=os.path.join(data, "particles.star"),
                      inputTomograms=(run, "Tomograms"), boxSize=10)
    project.launchProtocol(picked, wait=True)
    stop = StopController(folder)
    cut = prepared(project, ProtTomoExportSubtomos, queue=True, pixelSize=16.0, box=16, diameter=140.0,
                   inputCoordinates=(picked, "Coordinates"), **inputs)
    cut, seconds, most = watched(project, cut, stop)
    out["subtomos"] = {"seconds": seconds, "at_once": most, "stopped": stop.done, "state": cut.getStatus(),
                       "count": cut.Subtomograms.getSize() if hasattr(cut, "Subtomograms") else 0,
                       "failed": names(getattr(cut, "FailedTiltSeries", None)), "summary": cut.summary()}
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
