#!/bin/sh
# Adds the locked packages to /opt/venv. The CUDA libraries come with them, the driver from the node.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

site=$(echo /opt/venv/lib/python3*/site-packages)
find /opt/venv -name '*.map' -delete
python3 -m compileall -q -j 0 "$site"
rm -rf /root/.cache
