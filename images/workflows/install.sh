#!/bin/sh
# Snakemake beside what the lab image has, its settings for a pod, and the example.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export HOME=/root

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

# Where Snakemake looks for profiles of the machine: `snakemake --profile jobs`.
install -d /etc/xdg/snakemake
cp -r /tmp/inputs/etc/. /etc/xdg/snakemake/
sh /tmp/inputs/checkout/images/shared/examples/install.sh workflows /tmp/inputs/examples

site=$(echo /opt/venv/lib/python3*/site-packages)
cp -r /tmp/inputs/snakemake_executor_plugin_studovna "$site/"
python3 -m compileall -q -j 0 "$site"
rm -rf /root/.cache
