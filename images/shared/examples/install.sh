#!/bin/sh
# install.sh NAME FOLDER: the examples of an image, and what copies them into the home.
set -eu
here=$(dirname "$0")
site=$(echo /opt/venv/lib/python3*/site-packages)
install -d /opt/examples
cp -r "$2" "/opt/examples/$1"
install -m 644 "$here/studovna_examples.py" "$site/"
install -m 644 "$here/studovna_examples.json" /opt/venv/etc/jupyter/jupyter_server_config.d/
