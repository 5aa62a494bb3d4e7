#!/bin/sh
# Makes /opt/venv from the locked packages, by the pip that came with Debian's venv, and byte code for
# all of it: nobody can write it later.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

python3 -m venv --without-pip /opt/venv
site=$(echo /opt/venv/lib/python3*/site-packages)
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
PYTHONPATH="$wheel" python3 -m pip --python /opt/venv/bin/python3 install \
    --quiet --no-cache-dir --no-compile --require-hashes --no-deps --requirement /tmp/inputs/requirements.txt
install -m 644 /tmp/inputs/studovna_sidecar.py "$site/"

# Nobody sees these: the pages of the hub and of Jupyter.
rm -rf /opt/venv/share /opt/venv/etc/jupyter /root/.cache
rm -rf "$site"/jupyter_server/static
find "$site" -type d -name tests -prune -exec rm -rf {} +
python3 -m compileall -q -j 0 "$site"
