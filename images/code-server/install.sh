#!/bin/sh
# code-server from npm, at its locked version, the last one for Debian's Node 20. Install scripts are
# not run, since they fetch programs of their own; its native modules are built here instead.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export DEBIAN_FRONTEND=noninteractive npm_config_nodedir=/usr npm_config_cache=/tmp/npm
quietly="--no-audit --no-fund --loglevel=error"
builders="g++ libkrb5-dev libnode-dev make npm pkg-config"

apt-get update -q
apt-get install -y -q --no-install-recommends nodejs ripgrep libgssapi-krb5-2 $builders

mkdir -p /opt/code-server/bin
cp /tmp/inputs/package*.json /opt/code-server/
cd /opt/code-server
npm ci --ignore-scripts $quietly
npm rebuild argon2 $quietly
code=/opt/code-server/node_modules/code-server
cd "$code/lib/vscode"
npm install --omit=dev --ignore-scripts $quietly
npm rebuild @parcel/watcher @vscode/spdlog @vscode/sqlite3 kerberos native-watchdog $quietly
# Its own script would fetch node-gyp once more, for its developers.
(cd node_modules/node-pty && node-gyp rebuild)
(cd extensions && npm install --omit=dev --ignore-scripts $quietly)
mkdir -p node_modules/@vscode/ripgrep/bin
ln -sf /usr/bin/rg node_modules/@vscode/ripgrep/bin/rg
cd /
printf '#!/bin/sh\nexec node %s/out/node/entry.js "$@"\n' "$code" > /opt/code-server/bin/code-server
chmod 755 /opt/code-server/bin/code-server

find /opt/code-server -name '*.map' -delete
apt-get purge -y -q --auto-remove $builders
apt-get install -y -q --no-install-recommends nodejs ripgrep libgssapi-krb5-2
rm -rf /tmp/npm /root/.npm /root/.cache /var/lib/apt/lists/* /var/cache/apt/*.bin \
    /var/cache/apt/archives /var/log/*.log /var/log/apt
/opt/code-server/bin/code-server --version
