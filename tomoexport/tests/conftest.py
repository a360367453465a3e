"""What holds for every test."""
import os
import shutil
import signal

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

# Markers, separated by spaces, of tests that must not be skipped here: continuous integration installs what they need.
MUST_RUN = set(os.environ.get("TOMOEXPORT_MUST_RUN", "").split())


# A shell that runs us in the background has interrupts ignored, and children would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn the skip of a test that must run into a failure."""
    report = (yield).get_result()
    kinds = MUST_RUN.intersection(mark.name for mark in item.iter_markers())
    if report.skipped and kinds and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = "Tests marked %s must run here. %s" % (", ".join(sorted(kinds)), reason)


@pytest.fixture(scope="session")
def shim_runtime(tmp_path_factory):
    """The kernels compiled from the CUDA source for the CPU, once for all tests."""
    from tomoexport.tests.engine import shim
    if not shim.compiler():
        pytest.skip("no C++ compiler: install g++ to compile the CUDA source for the CPU")
    return shim.ShimRuntime(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Simulated projects, each made once for all tests: ``simulated(preset, **options)`` gives its folder.

    Whoever changes files, or writes beside them, takes a copy: ``simulated(preset, into=folder, **options)``.
    """
    from tomoexport.jobs import runner
    made = {}

    def simulate(preset="demo", into=None, **options):
        key = (preset, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(preset)
            runner.run({"verb": "simulate", "options": dict(options, preset=preset, output=str(folder))})
            made[key] = folder
        if into is None:
            return made[key]
        os.makedirs(str(into), exist_ok=True)
        for entry in os.scandir(str(made[key])):
            copy = shutil.copytree if entry.is_dir() else shutil.copy
            copy(entry.path, os.path.join(str(into), entry.name))
        return into

    return simulate
