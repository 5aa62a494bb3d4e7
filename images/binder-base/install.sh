#!/bin/sh
# The registry, and what copies images between registries. Git is in every image.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

apt-get update -q
apt-get install -y -q --no-install-recommends docker-registry skopeo
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt
