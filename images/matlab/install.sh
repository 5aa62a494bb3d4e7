#!/bin/sh
# The libraries that MATLAB's own list for Debian names, and jupyter-matlab-proxy.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -y -q --no-install-recommends -- \
    g++ libasound2t64 libcairo-gobject2 libcups2t64 libdrm2 libgbm1 libgdk-pixbuf-2.0-0 \
    libglu1-mesa libgstreamer-plugins-base1.0-0 libgtk-3-0t64 libltdl7 libnspr4 libnss3 libpam0g \
    libpangoft2-1.0-0 libsndfile1 libtirpc3t64 libuuid1 libxcomposite1 libxcursor1 libxdamage1 \
    libxft2 libxinerama1 libxrandr2 libxt6t64 libxtst6 libxxf86vm1 locales-all make net-tools \
    unzip xvfb
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt
python3 -m compileall -q -j 0 /opt/venv/lib/python3*/site-packages
rm -rf /root/.cache
