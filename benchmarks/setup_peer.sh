#!/usr/bin/env bash
# Make the environment of the peer, warpylib, for the CPU:
#     benchmarks/setup_peer.sh [FOLDER]            PEER_PYTHON=python3.11 by default; needs a C++ compiler
# FOLDER is benchmarks/.peer-venv by default; give another one to the benchmarks as TOMOEXPORT_PEER=FOLDER/bin/python.
# What a former run finished is kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/.peer-venv}
python=${PEER_PYTHON:-python3.11}

stamp=$folder/.finished-$(cksum < "${BASH_SOURCE[0]}" | cut -d ' ' -f 1)
[ ! -e "$stamp" ] || { echo "$folder: ready"; exit 0; }
command -v "$python" > /dev/null || { echo "$python: not found. Set PEER_PYTHON to a Python 3.11." >&2; exit 1; }
command -v c++ > /dev/null || { echo "c++: not found. On Debian or Ubuntu: sudo apt-get install g++" >&2; exit 1; }
[ ! -e "$folder" ] || [ -e "$folder/pyvenv.cfg" ] || { echo "$folder: exists and is no environment" >&2; exit 1; }
"$python" -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

# Versions that work together. A CPU build of torch is enough; where PyPI offers CUDA builds only, add
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
pip install -q 'setuptools<81' wheel ninja==1.13.2 pybind11==3.1.0 numpy==2.4.6
pip install -q torch==2.13.0
# The published wheel, or one that pip built before and kept, may be bound to another torch: build it anew against
# the one that is installed.
MAX_JOBS=${MAX_JOBS:-2} pip install -q --no-cache-dir --no-build-isolation --no-binary torch-projectors --no-deps \
    torch-projectors==0.13.1
pip install -q warpylib==1.1.2 torch-subpixel-crop==0.6.0 torch-grid-utils==0.6.0 torch-fourier-shift==0.6.0 \
    scipy==1.17.1 einops==0.8.2 starfile==0.5.13 mrcfile==1.5.4 lxml==6.1.3
"$folder/bin/python" -c 'import torch, torch_projectors, warpylib
print("warpylib", warpylib.__version__, "torch", torch.__version__, "torch-projectors", torch_projectors.__version__)'
touch "$stamp"
