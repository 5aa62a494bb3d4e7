#!/bin/sh
# Makes /opt/venv: uv from the locked file by pip, everything else by uv, then byte code for all of it.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

# With the system's packages visible, pip in a notebook installs into the home (~/.local) by itself.
python3 -m venv --system-site-packages --without-pip /opt/venv
site=$(echo /opt/venv/lib/python3*/site-packages)

# uv's own lines of the locked file, installed first by the pip that came with Debian's venv.
awk '/^[a-z]/ { mine = /^uv==/ } mine' /tmp/inputs/requirements.txt > /tmp/uv.txt
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
PYTHONPATH="$wheel" python3 -m pip --python /opt/venv/bin/python3 install \
    --quiet --no-cache-dir --no-compile --require-hashes --no-deps --requirement /tmp/uv.txt
uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

install -m 644 /tmp/inputs/studovna_singleuser.py "$site/"
install -m 755 /tmp/inputs/jupyterhub-singleuser /opt/venv/bin/
cp -r /tmp/inputs/etc/. /opt/venv/etc/jupyter/

# Nobody reads these in a container: the hub's own pages, source maps, other people's tests.
rm -rf /opt/venv/share/jupyterhub /opt/venv/share/man /tmp/uv.txt /root/.cache
find /opt/venv -name '*.map' -delete
find "$site" -type d -name tests -path '*/jedi/*' -prune -exec rm -rf {} +

# The person cannot write byte code here, so all of it is made now; it is checked against the times of
# the sources, so that a package which a derived image replaces is never run from old byte code.
python3 -m compileall -q -j 0 "$site"
