#!/bin/sh
# Makes /opt/venv from the locked packages, with byte code: nobody can write it later.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

python3 -m venv --without-pip /opt/venv
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
PYTHONPATH="$wheel" python3 -m pip --python /opt/venv/bin/python3 install \
    --quiet --no-cache-dir --no-compile --require-hashes --no-deps --requirement /tmp/inputs/requirements.txt
find /opt/venv -type d -name tests -path '*/site-packages/*/tests' -prune -exec rm -rf {} +
python3 -m compileall -q -j 0 /opt/venv
rm -rf /root/.cache
