#!/bin/sh
# Makes /opt/builder: the code of the three containers, and repo2docker in a folder of its own, so that
# /opt/venv stays exactly the Lab's.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

mkdir -p /opt/builder/lib
uv pip install --python /opt/venv --target /opt/builder/lib --no-cache --require-hashes --no-deps \
    --link-mode copy --quiet --requirement /tmp/inputs/requirements.txt
cp -r /tmp/inputs/buildpack /opt/builder/
echo 'from buildpack.main import main; main()' > /opt/builder/__main__.py
chmod -R go+rX,go-w /opt/builder

# What every image that is built has as well: the Lab's kernels and pages are also the system's.
ln -s /opt/venv/share/jupyter /usr/local/share/jupyter

# What is said of the Lab's packages to uv, and what they need of each other.
/usr/bin/python3 -I /opt/builder lab
python3 -m compileall -q -j 0 /opt/builder
