#!/bin/sh
# Adds the scientific packages to /opt/venv; the lab image's own versions stay as they are.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt

# Other people's tests are a fifth of these packages.
site=$(echo /opt/venv/lib/python3*/site-packages)
find "$site" -type d -name tests -path '*/site-packages/[a-z]*/*' \
    \( -path '*/numpy/*' -o -path '*/scipy/*' -o -path '*/pandas/*' -o -path '*/sklearn/*' \
    -o -path '*/sympy/*' -o -path '*/matplotlib/*' \) -prune -exec rm -rf {} +
find /opt/venv -name '*.map' -delete

python3 -m compileall -q -j 0 "$site"
rm -rf /root/.cache
