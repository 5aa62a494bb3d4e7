"""Why a pod waits, in plain words. Pure: from the JSON of the pod, its events and its claims.

Kubernetes says why in four places: the container's waiting reason, the pod's PodScheduled
condition, events of the pod, events of its claims. The first of them that knows wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spawner.engine import (
    ClaimMissing,
    DiskFull,
    EngineError,
    ImageMissing,
    NoFreeDevice,
    NoRoom,
    RegistryUnreachable,
)
from spawner.kube_api import Json
from spawner.kube_states import condition, statuses
from spawner.manifest import quantity
from studovna.text import Text
from studovna.units import format_size

NEVER = math.inf
RETRIES = 45.0  # the kubelet asks a registry again after 10, 20 and 40 seconds
SLOW_VOLUME = 120.0
A_MOMENT = 8.0  # what was made just now need not be known everywhere


@dataclass(frozen=True)
class Waiting:
    """Why a pod waits.

    When it still waits for the same reason after ``patience`` seconds, it never will start:
    ``error`` is raised then, with ``sentence``. It is told to people after ``quiet`` seconds.
    """

    sentence: Text
    error: type[EngineError] = EngineError
    patience: float = NEVER
    quiet: float = 0.0


@dataclass(frozen=True)
class Around:
    """What is known beside the pod itself.

    ``claims``: those that it mounts, None where there is none of that name. ``room_seconds``: how
    long a pod may wait for a node with room.
    """

    events: Sequence[Json] = ()
    claims: Mapping[str, Json | None] = field(default_factory=dict)
    claim_events: Sequence[Json] = ()
    room_seconds: float = 120.0


def why_waiting(pod: Json, around: Around) -> Waiting | None:
    """Why this pod does not run yet; None while all goes its way."""
    for status in statuses(pod):
        waiting = (status.get("state") or {}).get("waiting")
        if waiting:
            found = _container(status, waiting, around.events)
            if found:
                return found
    scheduled = condition(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        return _unscheduled(pod, str(scheduled.get("message") or ""), around)
    return _on_its_node(pod, around)


def progress(events: Iterable[Json]) -> list[Text]:
    """What the events say has been done so far, for the page."""
    told: list[Text] = []
    for event in events:
        words = str(event.get("message") or "")
        image = re.search(r'image "([^"]{1,500})"', words)
        if event.get("reason") == "Scheduled":
            told.append(Text("A node of the cluster was found"))
        elif event.get("reason") == "Pulling" and image:
            told.append(Text("Fetching the image {image}", image=image[1]))
        elif event.get("reason") == "Pulled" and image and "Successfully" in words:
            told.append(Text("The image {image} is here", image=image[1]))
        elif event.get("reason") == "TriggeredScaleUp":
            told.append(Text("A node is being added to the cluster"))
    return list(dict.fromkeys(told))


# --- containers ---------------------------------------------------------------------------------

_IMAGE_REASONS = {
    "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError",
    "SignatureValidationFailed",
}  # fmt: skip
_DENIED = re.compile(
    r"unauthorized|authentication required|403|forbidden|denied|insufficient_scope"
    r"|authorization failed|no basic auth",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"connection refused|connection reset|no such host|timeout|deadline exceeded|no route to host"
    r"|unreachable|tls|x509|server gave HTTP response|\bEOF\b|server misbehaving|\b50[0-4]\b",
    re.IGNORECASE,
)
_MISSING = re.compile(r"not found|notfound|unknown|does not exist", re.IGNORECASE)
_FULL = re.compile(r"no space left", re.IGNORECASE)


def _container(status: Json, waiting: Json, events: Sequence[Json]) -> Waiting | None:
    reason, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    image = str(status.get("image") or "")
    if reason in _IMAGE_REASONS:
        pulls = [
            str(event.get("message") or "")
            for event in events
            if event.get("reason") == "Failed" and "Failed to pull image" in event["message"]
        ]
        return why_no_image(image, f"{words}\n{pulls[-1] if pulls else ''}")
    if reason == "ErrImageNeverPull":
        sentence = Text("The image {image} is not on the cluster's node.", image=image)
        return Waiting(sentence, ImageMissing, 0)
    if reason == "InvalidImageName":
        return Waiting(Text("{image} is not the name of an image.", image=image), ImageMissing, 0)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        if "runAsNonRoot" in words:
            sentence = Text("The image {image} would run as root, which is not allowed.",
                            image=image)  # fmt: skip
            return Waiting(sentence, EngineError, 0)
        sentence = Text("The container could not be made: {said}", said=words)
        return Waiting(sentence, EngineError, A_MOMENT, quiet=2)
    if reason == "CrashLoopBackOff":
        last = (status.get("lastState") or {}).get("terminated") or {}
        return Waiting(Text("It ended by itself with exit code {code}.",
                            code=last.get("exitCode", "?")), EngineError, 0)  # fmt: skip
    return None


def why_no_image(image: str, words: str) -> Waiting:
    """Why an image could not be pulled, from what the container runtime wrote."""
    if _FULL.search(words):
        return Waiting(
            Text("The disk of the cluster's node is full. Tell the administrators."), DiskFull, 0
        )
    # The name itself may hold any of the words that are looked for.
    words = words.replace(image, "IMAGE")
    if _DENIED.search(words):
        return Waiting(
            Text(
                "The image {image} does not exist, or its registry does not let this cluster have "
                "it.",
                image=image,
            ),
            ImageMissing,
            0,
        )
    if _UNREACHABLE.search(words):
        return Waiting(
            Text("The registry of the image {image} does not answer.", image=image),
            RegistryUnreachable,
            RETRIES,
        )
    if _MISSING.search(words):
        return Waiting(
            Text("The image {image} does not exist in its registry.", image=image), ImageMissing, 0
        )
    return Waiting(
        Text("The image {image} could not be fetched yet; the cluster tries again.", image=image),
        ImageMissing,
        RETRIES,
        quiet=2,
    )


# --- a node -------------------------------------------------------------------------------------

_INSUFFICIENT = re.compile(r"Insufficient ([A-Za-z0-9](?:[A-Za-z0-9./_-]*[A-Za-z0-9])?)")
_LACKING_CLAIM = re.compile(r'persistentvolumeclaim "([^"]{1,253})" (not found|is being deleted)')
_UNBOUND = re.compile(
    r"unbound immediate PersistentVolumeClaims|persistent volumes? to bind|volume binding"
    r"|volume node affinity conflict"
)


def _unscheduled(pod: Json, words: str, around: Around) -> Waiting | None:
    lacking = _LACKING_CLAIM.search(words)
    if lacking:
        return _claim_lacking(lacking[1], gone=lacking[2] == "not found")
    for name, claim in around.claims.items():
        if claim is None:
            return _claim_lacking(name, gone=True)
    if _UNBOUND.search(words):
        return _unbound(pod, around, words)
    scaling = any(event.get("reason") == "TriggeredScaleUp" for event in around.events)
    patience = NEVER if scaling else around.room_seconds
    missing = list(dict.fromkeys(_INSUFFICIENT.findall(words)))
    if missing:
        asked = ", ".join(f"{name}: {_asked(pod, name)}" for name in missing)
        device = any("/" in name for name in missing)
        return Waiting(
            Text(
                "No node of the cluster has enough free for what is asked for: {asked}. Choose "
                "less, or try again later.",
                asked=asked,
            ),
            NoFreeDevice if device else NoRoom,
            patience,
            quiet=1,
        )
    if re.search(r"node selector|node affinity|node\(s\) didn't match", words):
        labels = pod["spec"].get("nodeSelector") or {}
        return Waiting(
            Text(
                "No node of the cluster is of the kind that is asked for: {labels}.",
                labels=", ".join(f"{key}={value}" for key, value in labels.items()) or words,
            ),
            NoRoom,
            patience,
            quiet=1,
        )
    if not words:
        return None
    return Waiting(
        Text("No node of the cluster takes it: {said}", said=words), NoRoom, patience, quiet=1
    )


def _asked(pod: Json, name: str) -> str:
    """How much of a resource the main containers ask for together."""
    if name == "pods":
        return "1"
    sum_ = sum(
        quantity(asked[name], name)
        for one in pod["spec"]["containers"]
        if name in (asked := (one.get("resources") or {}).get("requests") or {})
    )
    return format_size(int(sum_)) if "memory" in name or "storage" in name else f"{float(sum_):g}"


# --- volumes ------------------------------------------------------------------------------------


def _claim_lacking(name: str, *, gone: bool) -> Waiting:
    if gone:
        sentence = Text("The volume {claim} does not exist any more.", claim=name)
    else:
        sentence = Text("The volume {claim} is being deleted.", claim=name)
    return Waiting(sentence, ClaimMissing, A_MOMENT, quiet=3)


def _unbound(pod: Json, around: Around, words: str) -> Waiting:
    for name, claim in around.claims.items():
        if claim is None or (claim.get("status") or {}).get("phase") == "Bound":
            continue
        failed = [
            str(event.get("message") or "")
            for event in around.claim_events
            if event.get("involvedObject", {}).get("name") == name
            and event.get("reason") in ("ProvisioningFailed", "FailedBinding")
        ]
        if failed:
            patience = A_MOMENT if "not found" in failed[-1] else SLOW_VOLUME
            return Waiting(
                Text("The volume {claim} cannot be made: {said}", claim=name, said=failed[-1]),
                ClaimMissing,
                patience,
                quiet=3,
            )
        return Waiting(
            Text("The volume {claim} is not ready yet.", claim=name),
            ClaimMissing,
            SLOW_VOLUME,
            quiet=5,
        )
    names = ", ".join(around.claims) or pod["metadata"]["name"]
    return Waiting(
        Text("The volume {claim} cannot be reached from a node with room: {said}",
             claim=names, said=words),
        NoRoom, SLOW_VOLUME, quiet=5,
    )  # fmt: skip


_QUOTED = re.compile(r'volume "([^"]{1,253})"')


def _on_its_node(pod: Json, around: Around) -> Waiting | None:
    trouble = {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume"}
    found = [event for event in around.events if event.get("reason") in trouble]
    if not found:
        return None
    words = str(found[-1].get("message") or "")
    if found[-1]["reason"] == "FailedCreatePodSandBox":
        return Waiting(
            Text("The node {node} cannot start it: {said}",
                 node=pod["spec"].get("nodeName", ""), said=words),
            EngineError, SLOW_VOLUME, quiet=5,
        )  # fmt: skip
    volume = _volume(pod, around, words)
    if "Multi-Attach" in words or "already exclusively attached" in words:
        return Waiting(
            Text("The volume {claim} is still attached to another node.", claim=volume),
            EngineError, NEVER, quiet=5,
        )  # fmt: skip
    return Waiting(
        Text("The volume {claim} cannot be mounted: {said}", claim=volume, said=words),
        EngineError, SLOW_VOLUME, quiet=5,
    )  # fmt: skip


def _volume(pod: Json, around: Around, words: str) -> str:
    """The claim that a message is about, or else the volume's own name."""
    match = _QUOTED.search(words)
    name = match[1] if match else ""
    for claim_name, claim in around.claims.items():
        if claim is not None and name and claim["spec"].get("volumeName") == name:
            return claim_name
    for volume in pod["spec"].get("volumes") or ():
        claim_of = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim_of and (volume["name"] == name or f"[{volume['name']}]" in words):
            return str(claim_of)
    return name or ", ".join(around.claims)
