"""Standard input and output through a WebSocket: what people's ssh takes websocat for.

``python -m tests.websocket_pipe ws://…``; the hub's token is in ``$TOKEN``.
"""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp


async def pipe(url: str, token: str) -> None:
    """Pass bytes both ways until one side ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    headers = {"Authorization": f"token {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=headers, max_msg_size=0) as socket,
    ):

        async def upwards() -> None:
            while data := await reader.read(2**16):
                await socket.send_bytes(data)
            await socket.close()

        up = asyncio.create_task(upwards())
        async for message in socket:
            await asyncio.to_thread(os.write, sys.stdout.fileno(), message.data)
        up.cancel()


if __name__ == "__main__":
    asyncio.run(pipe(sys.argv[1], os.environ["TOKEN"]))
