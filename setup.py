"""Packaging of scipion-em-tomoexport: the metadata, what it needs, and its two entry points."""
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version():
    """Read the version without importing the package."""
    text = (HERE / "tomoexport" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def description():
    """Return the README, or nothing where the sources came without one."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# CuPy 14 needs numpy 2, Scipion pins numpy 1: cap it.
CUPY = ">=12,<14"

setup(
    name="scipion-em-tomoexport",
    version=version(),
    description="Tomograms, sub-tomograms and particle series from aligned tilt series, inside Scipion",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The tomoexport authors",
    license="GPL-3.0-or-later",
    keywords="scipion cryo-electron-tomography subtomogram-averaging RELION Warp tomoDRGN",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
    packages=find_packages(include=["tomoexport", "tomoexport.*"]),
    include_package_data=True,
    python_requires=">=3.8,<3.13",
    install_requires=[
        "scipion-pyworkflow",
        "scipion-em",
        "scipion-em-tomo>=3.11.3",
        "numpy>=1.24",
        "scipy",
        "ducc0>=0.41",
        "mrcfile",
        "emtable",
        "numba",
        "matplotlib",
    ],
    extras_require={
        "cuda11": ["cupy-cuda11x" + CUPY],
        "cuda12": ["cupy-cuda12x" + CUPY],
        "cuda13": ["cupy-cuda13x>=13.6,<14"],
        # NVRTC compiles CUDA source without a GPU. RELION's plugin is optional: tests run with and without.
        "test": ["pytest", "pytest-xdist", "nvidia-cuda-nvrtc-cu12; platform_system == 'Linux'",
                 "scipion-em-reliontomo; python_version >= '3.9'"],
        "dev": ["ruff", "mypy; python_version >= '3.10'"],
    },
    entry_points={
        "pyworkflow.plugin": ["tomoexport = tomoexport"],
        "console_scripts": ["tomoexport = tomoexport.cli:main"],
    },
)
