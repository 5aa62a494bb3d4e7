"""From the start request to a server that answers, on a cluster: ours and plain KubeSpawner."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from studovna.podman import Podman
from tests.bench.cluster_hubs import kubespawner_hub, our_hub
from tests.bench.results import Results
from tests.bench.start import plain_image
from tests.cluster.kube import IMAGE, bring_image, use_cluster
from tests.support import preparation_state

CASE = "cluster: start request to answering server"
OURS = "studovna, images/lab"
PLAIN_LAB = "KubeSpawner with z2jh's settings, images/lab"
PLAIN_PIP = "KubeSpawner with z2jh's settings, plain pip install"


def push_plain(folder: Path) -> str:
    """Build what a plain pip install gives, and put it beside ours in the cluster's registry."""
    podman = Podman(preparation_state())
    podman.probe()
    image = f"{IMAGE.rpartition('/')[0]}/bench-plain:latest"
    argv = podman.argv("push", "--tls-verify=false", plain_image(folder, podman), image)
    subprocess.run(argv, env=podman.environment, check=True)
    return image


def measure(results: Results, runs: int) -> None:
    """One start after another, the subjects in turn, so that a busy minute hits all alike."""
    use_cluster()
    bring_image()
    with tempfile.TemporaryDirectory(prefix="studovna-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        plain = push_plain(folder)
        subjects = {
            OURS: stack.enter_context(our_hub(folder / "ours"))[0],
            PLAIN_LAB: stack.enter_context(kubespawner_hub(folder / "lab", IMAGE))[0],
            PLAIN_PIP: stack.enter_context(kubespawner_hub(folder / "pip", plain))[0],
        }
        for run in range(runs + 1):
            for subject, hub in subjects.items():
                options = {"profile": "cpu"} if subject == OURS else {}
                seconds = hub.start_to_answer("bench", options)
                hub.stop_server("bench")
                if run:  # the first start pulls images and makes homes
                    results.add(CASE, subject, seconds, "s")
