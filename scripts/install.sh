#!/bin/sh
# Create a virtual environment and install the project with the build of torch that this machine needs.
#   PYTHON   interpreter to use (3.11 to 3.13; default python3)
#   VENV     folder of the environment (default .venv)
#   EXTRAS   optional dependencies from pyproject.toml (EXTRAS=dev, EXTRAS=cluster,study; default none)
#   TORCH    cpu | cuda | auto (default: cuda if nvidia-smi lists a GPU, else cpu)
set -eu
python=${PYTHON:-python3}
venv=${VENV:-.venv}
torch=${TORCH:-auto}
extras=${EXTRAS:-}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "SCRAMBLe needs Python 3.11 to 3.13; $python is $("$python" -V 2>&1). Choose a supported interpreter: make PYTHON=python3.11 ..." >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

if [ "$torch" = auto ]; then
    if nvidia-smi -L 2>/dev/null | grep -q GPU; then torch=cuda; else torch=cpu; fi
fi
version=$(sed -n 's/^torch==//p' constraints.txt)
if "$venv/bin/python" -c "import sys, torch; sys.exit(torch.__version__.split('+')[0] != '$version')" 2>/dev/null; then
    echo "torch $version is already installed."
elif [ "$torch" = cpu ] && [ "$(uname -s)" = Linux ]; then
    [ "${TORCH:-auto}" = cpu ] || echo "No NVIDIA GPU found (set TORCH=cuda to install the CUDA build anyway)."
    echo "Installing the CPU build of torch $version."
    # The CPU builds for Linux are in a separate index. If this index cannot be reached, use the configured index.
    "$venv/bin/pip" install --quiet --retries 1 --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$version" || {
        echo "The index of CPU builds cannot be reached, so torch $version is installed from the configured index."
        "$venv/bin/pip" install --quiet "torch==$version"
    }
else
    echo "Installing the default build of torch $version ($torch, $(uname -s))."
    "$venv/bin/pip" install --quiet "torch==$version"
fi
echo "Installing SCRAMBLe and its libraries; this takes some minutes ..."
"$venv/bin/pip" install --quiet --constraint constraints.txt --editable ".${extras:+[$extras]}"
echo "Installed into $venv."
