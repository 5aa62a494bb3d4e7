#!/bin/sh
# buildah, what gives its user namespace more than one user, and skopeo, which pushes what it built.
# No runtime: buildah runs the steps itself (chroot isolation). It looks for netavark even when no
# step gets a network of its own.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

apt-get update -q
apt-get install -y -q --no-install-recommends buildah libcap2-bin netavark skopeo uidmap

# The steps of a Dockerfile work as several users. 0 of the namespace is user 1000 of the container;
# 1 and more are these, which no node has for its own users.
name=$(id -nu 1000)
echo "$name:2000000:65536" | tee /etc/subuid > /etc/subgid
# One capability each is enough for these two. As root's set-id programs they would need
# CAP_DAC_OVERRIDE of the container, too.
chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap
setcap cap_setuid=ep /usr/bin/newuidmap
setcap cap_setgid=ep /usr/bin/newgidmap

# Where buildah looks for settings of the user, in a process that it starts without an environment.
install -d -o 1000 -g 100 /home/jovyan/.config

apt-get purge -y -q libcap2-bin
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt
