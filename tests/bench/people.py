"""Pages and lists of a hub that knows thousands of people, beside one that knows a few."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from jupyterhub import orm, roles

from tests.bench.hubs import Hub, plain_hub
from tests.bench.results import Results
from tests.bench.start import our_hub

MANY, FEW = 5000, 20
REPEATS = 15
PERSON = "person-0007"

STOCK = """
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.db_url = "sqlite:///{database}"
"""

PAGES = {
    "home page": (PERSON, "/hub/home"),
    "start page": (PERSON, f"/hub/spawn/{PERSON}"),
    "administrators' page": ("admin", "/hub/admin"),
}
LISTS = {
    "list of 50 people, first page": "?include_stopped_servers=1&limit=50&offset=0",
    "list of 50 people, last page": "?include_stopped_servers=1&limit=50&offset={last}",
    "list of those with a running server": "?state=ready",
}


def names(count: int) -> list[str]:
    """The people that ``fill`` makes."""
    return [f"person-{number:04}" for number in range(count)]


def fill(database: Path, count: int, options: dict[str, str] | None = None) -> None:
    """People who have been here: each with two servers that do not run, and with their options."""
    session = orm.new_session_factory(f"sqlite:///{database}")()
    for known in roles.get_default_roles():
        roles.create_role(session, known)
    person = orm.Role.find(session, "user")
    for known_as in names(count):
        user = orm.User(name=known_as, last_activity=datetime.now(UTC))
        user.roles.append(person)
        session.add(user)
        for name in ("", "second"):
            session.add(
                orm.Spawner(
                    user=user, name=name, state={"home": f"home-{known_as}"},
                    user_options=options or {},
                )
            )  # fmt: skip
    session.commit()
    session.close()


@contextmanager
def hub_with(folder: Path, subject: str, count: int) -> Iterator[Hub]:
    """A hub whose database has ``count`` people."""
    folder.mkdir()
    if subject == "studovna":
        with our_hub(
            folder / "site",
            lambda state: fill(state / "jupyterhub.sqlite", count, {"profile": "cpu"}),
        ) as hub:
            yield hub
    else:
        database = folder / "people.sqlite"
        fill(database, count)
        with plain_hub(folder, "stock", STOCK.format(database=database)) as hub:
            yield hub


def milliseconds(client: httpx.Client, path: str) -> float:
    """The median over requests."""
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        reply = client.get(path)
        taken.append(time.perf_counter() - begun)
        if reply.status_code != 200:
            raise RuntimeError(f"{path}: {reply.status_code} {reply.text[:300]}")
    return 1000 * statistics.median(taken)


def measure(results: Results) -> None:
    """Each page of each hub, with few and with many people."""
    with tempfile.TemporaryDirectory(prefix="studovna-bench-") as name:
        for subject in ("studovna", "JupyterHub's own pages"):
            for count in (FEW, MANY):
                folder = Path(name) / f"{subject.split()[0]}-{count}"
                begun = time.perf_counter()
                with hub_with(folder, subject, count) as hub:
                    label = f"{subject}, {count} people"
                    results.add("people: hub's start", label, time.perf_counter() - begun, "s")
                    for page, (who, path) in PAGES.items():
                        if page == "start page" and subject != "studovna":
                            continue  # without profiles there is no page: it starts at once
                        with hub.browser(who) as person:
                            results.add(f"people: {page}", label, milliseconds(person, path), "ms")
                    with hub.client() as operator:
                        for page, query in LISTS.items():
                            path = "/hub/api/users" + query.format(last=max(0, count - 50))
                            taken = milliseconds(operator, path)
                            results.add(f"people: {page}", label, taken, "ms")
                    results.add("people: hub's memory", label, hub.memory(), "MB")
