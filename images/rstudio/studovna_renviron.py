"""Hands the server's environment on to R in RStudio, which starts R without it.

R reads Renviron.site, whoever starts it. Only what is listed here goes there: the environment also
holds the token with which the server speaks to the hub. A profile lists more in STUDOVNA_RENVIRON.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

FILE = Path("/tmp/studovna-renviron/Renviron.site")  # noqa: S108 - a container of one person
NAMES = (
    "JUPYTERHUB_USER",
    "JUPYTERHUB_SERVER_NAME",
    "CPU_GUARANTEE",
    "CPU_LIMIT",
    "MEM_GUARANTEE",
    "MEM_LIMIT",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "STUDOVNA_CRAN",
    "TZ",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    *(
        name
        for each in ("http", "https", "no")
        for name in (f"{each}_proxy", f"{each}_PROXY".upper())
    ),
)
MORE = "STUDOVNA_RENVIRON"


def renviron(environ: Mapping[str, str]) -> str:
    """Renviron.site for this environment.

    R puts other variables in place of ``${…}`` even between quotes and knows no escape for it, and
    a line ends with its line: values with such things are left out.
    """
    lines = []
    for name in dict.fromkeys((*NAMES, *environ.get(MORE, "").split())):
        value = environ.get(name, "")
        if value and re.fullmatch(r"\w+", name) and not re.search(r"[\x00-\x1f']|\$\{", value):
            lines.append(f"{name}='{value}'\n")
    return "".join(lines)


def _load_jupyter_server_extension(app) -> None:
    """Jupyter Server calls this when it starts."""
    try:
        FILE.parent.mkdir(mode=0o700, exist_ok=True)
        FILE.write_text(renviron(os.environ))
    except OSError as error:
        app.log.warning("R in RStudio does not see the server's environment: %s", error)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "studovna_renviron"}]
