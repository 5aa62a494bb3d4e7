#!/bin/sh
# OpenSSH's server and what passes it on through the person's server.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -y -q --no-install-recommends openssh-server
# Every home has a key of its own; one that all containers share would prove nothing.
rm -f /etc/ssh/ssh_host_*
uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt
install -m 755 /tmp/inputs/sshd /usr/local/bin/sshd
python3 -m compileall -q -j 0 /opt/venv/lib/python3*/site-packages
rm -rf /root/.cache /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt
