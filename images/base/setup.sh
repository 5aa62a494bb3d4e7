#!/bin/sh
# Runs once, as root, inside the new file system, after the packages are there.
set -eu

useradd --uid 1000 --gid 100 --create-home --shell /bin/bash jovyan
install -d /opt/venv

# Debian's /etc/profile sets PATH anew, and terminals in JupyterLab are login shells.
cat > /etc/profile.d/studovna.sh <<'EOF'
PATH="/opt/venv/bin:$PATH:$HOME/.local/bin"
export PATH
EOF

# Homes are volumes that may hold anything: no file of theirs is trusted by its owner alone, and
# fsGroup may have given the home's files another owner than the person who works in them.
git config --system --add safe.directory '*'

# What only this build needed, and what would make two builds differ for no reason.
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/* /var/log/*.log /var/log/apt \
    /usr/share/doc/* /usr/share/man/* /usr/share/info/* /root/.cache
