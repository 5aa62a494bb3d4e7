#!/bin/sh
# R, its kernel and the packages that most people load first, as Debian compiled them; and what
# install.packages needs to compile others into the home.
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export HOME=/root DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -y -q --no-install-recommends $(sed 's/#.*//' /tmp/inputs/packages.txt)

# The kernel's own recipe, for everybody; the venv's folder comes first in Jupyter's search path.
R --no-echo --no-restore -e \
    'IRkernel::installspec(user = FALSE, prefix = "/opt/venv", displayname = "R")'
install -m 644 /tmp/inputs/Rprofile.site /etc/R/Rprofile.site
sh /tmp/inputs/checkout/images/shared/examples/install.sh r /tmp/inputs/examples

# apt keeps what it downloaded: a bootstrapped Debian has none of the settings of Docker's images.
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt \
    /usr/share/doc/* /usr/share/man/* /root/.cache /root/.ipython /root/.local
