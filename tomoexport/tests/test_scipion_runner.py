"""The protocol tests, each run as a user of Scipion would: `python -m scipion tests ...`."""
import ast
import importlib.util
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tomoexport

PROTOCOL_TESTS = Path(__file__).with_name("protocols")

# Seconds for one class of tests. Scipion itself waits 1000 s for a database that is locked.
LONGEST = 900
AT_ONCE = 3

pytestmark = [
    pytest.mark.scipion,
    pytest.mark.skipif(importlib.util.find_spec("scipion") is None, reason="Scipion is not installed"),
]


def test_classes():
    """Return the names of the test classes, read without importing them."""
    names = []
    for path in sorted(PROTOCOL_TESTS.glob("test*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                names.append("tomoexport.tests.protocols.%s.%s" % (path.stem, node.name))
    return names


test_classes.__test__ = False


def scipion(*arguments):
    """Run a Scipion command in the environment that `tools/with-env` made; return its exit status and output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scipion", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=LONGEST)[0]
    except subprocess.TimeoutExpired:
        # The runs it started have its process group.
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + "\nStopped after %d s: a locked database?" % LONGEST
    return process.returncode, output


@pytest.fixture(scope="module", autouse=True)
def scipion_home(tmp_path_factory):
    """Give Scipion folders of its own where none are set, and the journal mode that Python 3.11 needs."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("SCIPION_HOME"):
            home = tmp_path_factory.mktemp("scipion")
            patch.setenv("SCIPION_HOME", str(home))
            patch.setenv("SCIPION_USER_DATA", str(home / "data"))
        if sys.version_info >= (3, 11) and not os.environ.get("SQLITE_JOURNAL_MODE"):
            patch.setenv("SQLITE_JOURNAL_MODE", "WAL")
        patch.setenv("SCIPION_NOTIFY", "False")
        # Scipion starts its runs with the `python3` of the PATH.
        patch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
        yield


@pytest.fixture(scope="module")
def runs(request, scipion_home):
    """The classes that were chosen, by name, run side by side: Scipion waits for seconds in every wave of steps."""
    chosen = [item.callspec.params["name"] for item in request.session.items
              if getattr(item, "originalname", "") == "test_protocols"]
    pool = ThreadPoolExecutor(AT_ONCE)
    futures = {name: pool.submit(scipion, "tests", name) for name in chosen}
    yield futures
    for future in futures.values():
        future.cancel()
    pool.shutdown()


@pytest.mark.parametrize("name", test_classes(), ids=lambda name: name.rsplit(".", 1)[-1])
def test_protocols(name, runs):
    status, output = runs[name].result()
    if "run 0 tests" in output and importlib.util.find_spec("reliontomo") is None:
        pytest.skip("scipion-em-reliontomo is not installed")
    assert status == 0, output


def test_scipion_lists_only_the_protocol_tests():
    status, output = scipion("tests", "--grep", "tomoexport", "--show")
    assert status == 0, output
    assert "Error loading" not in output
    listed = {word for line in output.splitlines() for word in line.split() if word.startswith("tomoexport.tests.")}
    modules = {name.rsplit(".", 1)[0] for name in test_classes()}
    assert listed == modules | set(test_classes())


def test_scipion_loads_the_plugin():
    code = (
        "import pyworkflow; domain = pyworkflow.Config.getDomain(); module = domain.getPlugins()['tomoexport']; "
        "plugin = module._pluginInstance; "
        "print('PLUGIN', plugin.getName(), plugin.getPath(), plugin.validateInstallation(), sorted(module._bibtex)); "
        "protocols = domain.getProtocols().items(); "
        "print('PROTOCOLS', *sorted(name for name, c in protocols if c.__module__.startswith('tomoexport.')))"
    )
    status, output = scipion("python", "-c", code)
    assert status == 0, output
    plugin = [line.split() for line in output.splitlines() if line.startswith("PLUGIN")][0]
    assert plugin[1] == "tomoexport"
    assert os.path.samefile(plugin[2], os.path.dirname(tomoexport.__file__))
    assert plugin[3] == "[]"
    assert set(tomoexport._references) <= set("".join(plugin[4:]).strip("[]").replace("'", "").split(","))
    protocols = [line.split()[1:] for line in output.splitlines() if line.startswith("PROTOCOLS")][0]
    tree = Path(tomoexport.__file__).with_name("protocols.conf").read_text(encoding="utf-8")
    named = {part.split('"')[0] for part in tree.split('"value": "')[1:]}
    assert named == {name for name in protocols if not name.endswith("Base")}
