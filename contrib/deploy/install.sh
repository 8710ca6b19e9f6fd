#!/bin/sh
# Installs Tessera into a new virtual environment: the step that the Containerfile, and the trial in
# a chroot, share.
#
#   install.sh VENV SOURCE [TORCH_INDEX]
#
# VENV: folder of the environment. SOURCE: a checkout. TORCH_INDEX: package index of torch alone, of
# a build for CPUs or for one version of CUDA; without it the usual index, whose torch is for CUDA.
# PYTHON: the interpreter (default python3). SITE: a folder of libraries that are installed already;
# then nothing is downloaded.
set -eu
venv=$1 source=$2 torch_index=${3-}

"${PYTHON:-python3}" -m venv "$venv"
if [ -n "${SITE-}" ]; then
    printf '%s\n' "$SITE" > "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/libraries.pth"
    # The environment's own setuptools may be too old to build.
    PYTHONPATH=$SITE "$venv/bin/python" -m pip install \
        --no-deps --no-build-isolation --no-index "$source"
else
    # torch first: asked for through another package, pip may take a newer one.
    "$venv/bin/python" -m pip install --no-cache-dir ${torch_index:+--index-url "$torch_index"} \
        "$(sed -n 's/^torch==/torch==/p' "$source/constraints.txt")"
    "$venv/bin/python" -m pip install --no-cache-dir -c "$source/constraints.txt" \
        "$source[metrics]"
fi
"$venv/bin/tessera" --help > /dev/null
