"""Start the containers of a pod in order: the init containers one after another, then the rest.

A process of its own, so that a pod goes on starting when the hub restarts. (Podman's own pods do
this, too, but keep the pod locked meanwhile: one with an init container that takes an hour could
not be ended within that hour.) It holds the pod's lock, inherited, until it is done.

Called with the pod's folder and podman's path; `sequence.json` there lists the containers. When one
cannot be started, or an init container fails, the reason goes to `failed` and the rest stays.
"""

from __future__ import annotations

import json
import os
import subprocess  # noqa: S404 - argv lists only, never a shell
import sys
from pathlib import Path


def main(folder: Path, podman: str) -> int:
    for step in json.loads((folder / "sequence.json").read_text()):
        attach = ["--attach", "--sig-proxy=false"] if step["init"] else []
        done = subprocess.run(  # noqa: S603
            [podman, "start", *attach, step["name"]],
            cwd=step["folder"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said = done.stderr[-4000:].decode(errors="replace")
            # The folder is gone when the pod was ended meanwhile.
            if folder.is_dir():
                failed = {"container": step["container"], "code": done.returncode, "said": said}
                (folder / "failed").write_text(json.dumps(failed))
            return 1
    return 0


SCRIPT = Path(__file__).resolve()

if __name__ == "__main__":
    # Nobody's child: who called us need not live as long.
    if child := os.fork():
        Path(sys.argv[1], "starter").write_text(str(child))
        os._exit(0)
    os.setsid()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
