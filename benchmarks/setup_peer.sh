#!/usr/bin/env bash
# Make the environment of the peer, warpylib, for the CPU, or with --cuda for a CUDA GPU (and the CPU):
#     benchmarks/setup_peer.sh [--cuda] [FOLDER]   PEER_PYTHON=python3.11 by default; needs a C++ compiler
# FOLDER is benchmarks/.peer-venv by default; give another one to the benchmarks as TOMOEXPORT_PEER=FOLDER/bin/python.
# What a former run finished is kept. --cuda needs the CUDA toolkit (nvcc) with the major version that torch was built
# for; for a torch of another one set PEER_TORCH_INDEX, for instance to https://download.pytorch.org/whl/cu126. It has not
# been run on a machine with a GPU yet.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kind=cpu
[ "${1:-}" != --cuda ] || { kind=cuda; shift; }
folder=${1:-$here/.peer-venv}
python=${PEER_PYTHON:-python3.11}

stamp=$folder/.finished-$kind-$(cksum < "${BASH_SOURCE[0]}" | cut -d ' ' -f 1)
[ ! -e "$stamp" ] || { echo "$folder: ready"; exit 0; }
command -v "$python" > /dev/null || { echo "$python: not found. Set PEER_PYTHON to a Python 3.11." >&2; exit 1; }
command -v c++ > /dev/null || { echo "c++: not found. On Debian or Ubuntu: sudo apt-get install g++" >&2; exit 1; }
if [ $kind = cuda ]; then
    export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
    nvcc=$CUDA_HOME/bin/nvcc
    [ -x "$nvcc" ] || nvcc=$(command -v nvcc) || { echo "nvcc: not found. Install the CUDA toolkit, set CUDA_HOME" >&2
                                                   exit 1; }
    nvcc=$(readlink -f "$nvcc")
    export CUDA_HOME=${nvcc%/bin/nvcc}
fi
[ ! -e "$folder" ] || [ -e "$folder/pyvenv.cfg" ] || { echo "$folder: exists and is no environment" >&2; exit 1; }
"$python" -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

# Versions that work together. A CPU build of torch is enough without --cuda; where PyPI offers CUDA builds only, add
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
pip install -q 'setuptools<81' wheel ninja==1.13.2 pybind11==3.1.0 numpy==2.4.6
if [ $kind = cuda ]; then
    if [ -n "${PEER_TORCH_INDEX:-}" ]; then
        PIP_EXTRA_INDEX_URL='' pip install -q --index-url "$PEER_TORCH_INDEX" torch==2.13.0
    else
        pip install -q torch==2.13.0
    fi
    toolkit=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
    "$folder/bin/python" -c 'import sys, torch
if not torch.version.cuda:
    sys.exit("pip chose torch %s, which has no CUDA: set PEER_TORCH_INDEX to an index of CUDA builds" %
             torch.__version__)
print("torch %s for CUDA %s" % (torch.__version__, torch.version.cuda))
if torch.version.cuda.split(".")[0] != sys.argv[1]:
    sys.exit("nvcc is of CUDA %s: set CUDA_HOME to the toolkit of torch, or PEER_TORCH_INDEX to torch for this one" %
             sys.argv[1])' "$toolkit"
    export TORCH_PROJECTORS_BUILD_BACKEND=cuda
    # Code for the GPU that is here; all that torch knows if it is elsewhere.
    here_is=$("$folder/bin/python" -c 'import torch
if torch.cuda.is_available(): print("%d.%d" % torch.cuda.get_device_capability())')
    [ -z "$here_is" ] || export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$here_is}
else
    pip install -q torch==2.13.0
fi
# The published wheel, or one that pip built before and kept, may be bound to another torch: build it anew against
# the one that is installed.
MAX_JOBS=${MAX_JOBS:-2} pip install -q --no-cache-dir --no-build-isolation --no-binary torch-projectors --no-deps \
    torch-projectors==0.13.1
pip install -q warpylib==1.1.2 torch-subpixel-crop==0.6.0 torch-grid-utils==0.6.0 torch-fourier-shift==0.6.0 \
    scipy==1.17.1 einops==0.8.2 starfile==0.5.13 mrcfile==1.5.4 lxml==6.1.3
"$folder/bin/python" -c 'import torch, torch_projectors, warpylib
print("warpylib", warpylib.__version__, "torch", torch.__version__, "torch-projectors", torch_projectors.__version__)'
touch "$stamp"
