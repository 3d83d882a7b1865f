"""A line between offices and their broker: so many bytes a second each way, cut whenever a test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PIECE_BYTES = 4096


class SlowLine:
    """A relay on one port. ``carried``: bytes that went to the broker, and that came from it.

    ``bytes_per_s`` may be set at any time.
    """

    def __init__(self, target_port: int, bytes_per_s: float) -> None:
        self._target_port = target_port
        self.bytes_per_s = bytes_per_s
        self._connections: dict[asyncio.Task[None], None] = {}
        self.carried = [0, 0]
        self.cuts = 0

    def cut(self) -> None:
        """Every connection breaks now; what was on the line is lost."""
        self.cuts += 1
        for task in list(self._connections):
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side or ``cut`` ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            del self._connections[task]
            return
        pumps = [
            asyncio.ensure_future(self._pump(0, reader, far_writer)),
            asyncio.ensure_future(self._pump(1, far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # cut
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            far_writer.transport.abort()
            del self._connections[task]

    async def _pump(self, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                await asyncio.sleep(len(piece) / self.bytes_per_s)
                self.carried[way] += len(piece)
                writer.write(piece)
                await writer.drain()


@asynccontextmanager
async def slow_line(port: int, target_port: int, bytes_per_s: float) -> AsyncIterator[SlowLine]:
    """Relay ``port`` to ``target_port`` of this machine."""
    line = SlowLine(target_port, bytes_per_s)
    server = await asyncio.start_server(line.serve, "127.0.0.1", port)
    try:
        yield line
    finally:
        server.close()
        line.cut()
        await server.wait_closed()
