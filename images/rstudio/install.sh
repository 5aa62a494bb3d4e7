#!/bin/sh
# RStudio Server from the package that the operator named, and what passes it on behind the sign-in.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export HOME=/root DEBIAN_FRONTEND=noninteractive

python3 /tmp/inputs/fetch.py "$RSTUDIO_DEB" "$RSTUDIO_SHA256" /tmp/rstudio.deb
apt-get update -q
apt-get install -y -q --no-install-recommends /tmp/rstudio.deb

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt
site=$(echo /opt/venv/lib/python3*/site-packages)
install -m 644 /tmp/inputs/studovna_renviron.py "$site/"
install -m 644 /tmp/inputs/studovna_renviron.json /opt/venv/etc/jupyter/jupyter_server_config.d/
# The server writes it when it starts: it says what differs from server to server.
ln -sf /tmp/studovna-renviron/Renviron.site /etc/R/Renviron.site
# A server that nobody uses is stopped by the hub, which knows better.
install -d /etc/rstudio
echo session-timeout-minutes=0 >> /etc/rstudio/rsession.conf

python3 -m compileall -q -j 0 "$site"
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt \
    /usr/share/doc/* /usr/share/man/* /root/.cache /tmp/rstudio.deb
