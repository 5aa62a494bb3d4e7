#!/bin/sh
# Open MPI as its maintainers build it for PyPI (Debian's brings 280 MB of GPU runtimes), mpi4py and
# ipyparallel, settings for a pod, and the example.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export HOME=/root DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -y -q --no-install-recommends g++ make
uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

cp -r /tmp/inputs/etc/. /opt/venv/etc/
sh /tmp/inputs/checkout/images/shared/examples/install.sh mpi /tmp/inputs/examples

site=$(echo /opt/venv/lib/python3*/site-packages)
find "$site" -type d -name tests \( -path '*/numpy/*' -o -path '*/matplotlib/*' \) -prune \
    -exec rm -rf {} +
find /opt/venv -name '*.map' -delete
python3 -m compileall -q -j 0 "$site"
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt \
    /usr/share/doc/* /usr/share/man/* /root/.cache
