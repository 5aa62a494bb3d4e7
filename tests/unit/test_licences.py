"""Licence servers are tried before a start."""

from __future__ import annotations

import asyncio

import pytest

from spawner.licences import addresses, silent_servers


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("27000@licence.example.org", [("licence.example.org", 27000)]),
        ("1055@a:1056@b,1057@c;1058@d", [("a", 1055), ("b", 1056), ("c", 1057), ("d", 1058)]),
        ("/opt/licences/network.lic", []),
        ("70000@a", []),
        ("27000@-a", []),
        ("27000@a b", []),
        ("", []),
    ],
)
def test_addresses_of_a_variable(value: str, found: list[tuple[str, int]]) -> None:
    assert addresses(value) == found


async def test_one_answer_of_several_is_enough() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    closed = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    nobody = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    licences = {
        "matlab": {"MLM_LICENSE_FILE": f"{nobody}@127.0.0.1:{port}@127.0.0.1"},
        "ansys": {"ANSYSLMD_LICENSE_FILE": f"{nobody}@127.0.0.1", "ANSYSLI_SERVERS": "file"},
    }
    async with server:
        assert await silent_servers(licences) == [("ansys", f"{nobody}@127.0.0.1")]
