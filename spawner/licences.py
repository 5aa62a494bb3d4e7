"""Whether licence servers answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping

PATIENCE = 3.0  # seconds
_ADDRESS = re.compile(r"([0-9]{1,5})@([A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)")


def addresses(value: str) -> list[tuple[str, int]]:
    """The hosts and ports of a licence variable, which names them as ``port@host``, several with
    ``:``, ``;`` or ``,`` between them (FlexLM's way); none where it names a file.

    >>> addresses("27000@a.example.org:27001@b.example.org")
    [('a.example.org', 27000), ('b.example.org', 27001)]
    """
    found = [_ADDRESS.fullmatch(part) for part in re.split("[:;,]", value)]
    return [(one[2], int(one[1])) for one in found if one and 0 < int(one[1]) < 65536]


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, UnicodeError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def silent_servers(licences: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Name and value of each variable none of whose servers answers, all tried at once.

    ``licences``: the variables and their values, by the licence's name. One answer of several is
    enough: such servers stand in for each other.
    """
    asked = [
        (name, value, found)
        for name, variables in licences.items()
        for value in dict.fromkeys(variables.values())
        if (found := addresses(value))
    ]
    answers = await asyncio.gather(
        *(asyncio.gather(*(_answers(*one) for one in found)) for _, _, found in asked)
    )
    pairs = zip(asked, answers, strict=True)
    return [(name, value) for (name, value, _), each in pairs if not any(each)]
