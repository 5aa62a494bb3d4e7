#!/bin/sh
# Snakemake beside what the lab image has, its settings for a pod, and the example.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export HOME=/root

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

install -d /opt/venv/etc/snakemake/studovna
install -m 644 /tmp/inputs/config.yaml /opt/venv/etc/snakemake/studovna/
sh /tmp/inputs/checkout/images/shared/install.sh workflows /tmp/inputs/examples

site=$(echo /opt/venv/lib/python3*/site-packages)
python3 -m compileall -q -j 0 "$site"
rm -rf /root/.cache
