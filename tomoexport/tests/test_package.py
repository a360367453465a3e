"""What the installed package promises before any of it runs."""
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tomoexport

PACKAGE = Path(tomoexport.__file__).parent


def test_importing_the_package_is_light():
    code = "import sys, tomoexport; print(sorted({'numpy', 'pwem', 'pyworkflow', 'numba'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Plugn'"):
        tomoexport.Plugn  # noqa: B018


def test_plugin_without_scipion_is_an_import_error():
    if importlib.util.find_spec("pwem"):
        pytest.skip("Scipion is installed")
    with pytest.raises(ImportError):
        tomoexport.Plugin  # noqa: B018


@pytest.mark.parametrize("name", ["protocols.conf", "icon.png", "bibtex.py"])
def test_files_that_scipion_reads_are_there(name):
    assert (PACKAGE / name).stat().st_size > 0


def test_logo_is_small():
    assert os.path.getsize(PACKAGE / tomoexport._logo) < 20000


def test_every_subpackage_is_a_package():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert (folder / "__init__.py").exists(), folder
