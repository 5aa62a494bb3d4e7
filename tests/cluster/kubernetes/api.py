"""The few calls to the API server that the node's own helpers make, with the standard library."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WATCH_SECONDS = 240


class Api:
    """The API server of a node's state folder, as its administrator."""

    def __init__(self, state: Path) -> None:
        config = json.loads((state / "kubeconfig").read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        self._token = config["users"][0]["user"]["token"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # The machine's proxies are not for an address of its own.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def _open(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            self._server + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        return self._opener.open(request, timeout=WATCH_SECONDS + 30)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call; None for what is not there, or is there already. Raises OSError."""
        try:
            with self._open(method, path, body) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409):
                return None
            raise

    def follow(self, path: str) -> Iterator[dict[str, dict[str, Any]]]:
        """All objects of a list by their uid, whenever one of them has changed.

        Ends when the API server ends it, which is normal. Raises OSError and ValueError.
        """
        listed = self.call("GET", path)
        found = {item["metadata"]["uid"]: item for item in listed["items"]}
        yield found
        version = listed["metadata"]["resourceVersion"]
        query = f"?watch=1&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        with self._open("GET", path + query) as changes:
            for line in changes:
                change = json.loads(line)
                if change["type"] == "ERROR":
                    return
                uid = change["object"]["metadata"]["uid"]
                found.pop(uid, None)
                if change["type"] != "DELETED":
                    found[uid] = change["object"]
                yield found
