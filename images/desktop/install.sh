#!/bin/sh
# Debian's Xvnc, openbox and LXQt, the desktop's proxy, and the session in studovna_desktop/.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env

apt-get update -qq
# Without what packages only recommend, so the little that is wanted of it is named: software OpenGL,
# fonts, icons. python3-tk draws the windows of studovna_desktop.
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    tigervnc-standalone-server openbox hsetroot wmctrl x11-utils xterm dbus-daemon python3-tk \
    libgl1-mesa-dri libegl1 libglu1-mesa fonts-dejavu-core \
    lxqt-session lxqt-panel lxqt-runner lxqt-config lxqt-themes lxqt-notificationd \
    pcmanfm-qt qterminal featherpad breeze-icon-theme > /dev/null

uv pip install --python /opt/venv --no-cache --require-hashes --no-deps --link-mode hardlink \
    --requirement /tmp/inputs/requirements.txt
site=$(echo /opt/venv/lib/python3*/site-packages)
cp -r /tmp/inputs/studovna_desktop "$site/"
cp -r /tmp/inputs/etc/. /opt/venv/etc/jupyter/
# A panel with what there is; no icons on the desktop, no administrator's password, no screen saver.
cp -r /tmp/inputs/xdg/. /etc/xdg/
mv /opt/venv/bin/jupyterhub-singleuser /opt/venv/bin/jupyterhub-singleuser.jupyter
install -m 755 /tmp/inputs/jupyterhub-singleuser /opt/venv/bin/
# Found before Debian's own.
install -m 755 /tmp/inputs/vncserver /opt/venv/bin/
install -d -m 1777 /tmp/.X11-unix

find /opt/venv -name '*.map' -delete
python3 -m compileall -q -j 0 "$site"
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt \
    /usr/share/doc/* /usr/share/man/* /usr/share/info/* /root/.cache
