"""A daemon that does next to nothing: ``python -m tests.runtime.small_daemon DIRECTORY HOW``."""

import sys

from aiohttp import web

from keys.errors import VerificationFailed
from runtime.exits import DiskFailed
from runtime.service import Daemon, DaemonOptions, guard_handlers, run_process


async def main(daemon: Daemon) -> None:
    """Serve until told to stop, or end in the way the command line asks for."""
    how = sys.argv[2]

    async def handle(request: web.Request) -> web.Response:
        match request.path:
            case "/disk":
                raise DiskFailed("disk_full", "no space left")
            case "/bug":
                raise ValueError("plate YGN 1A-1234")
        return web.Response(text="served")

    async def break_later() -> None:
        await daemon.env.sleep(0.1)
        raise ValueError("plate YGN 1A-1234")

    match how:
        case "refuse":
            raise VerificationFailed("no_good", "this is no good; do that")
        case "bug":
            raise ValueError("plate YGN 1A-1234")
        case "task":
            daemon.spawn(break_later(), name="breaking")
    app = web.Application(middlewares=[guard_handlers(daemon)])
    app.router.add_get("/{path:.*}", handle)
    listener = await daemon.env.network.serve_tcp(app, host="127.0.0.1", port=0)
    daemon.announce_ready({"port": listener.port})
    try:
        await daemon.stop_requested()
        daemon.env.process.stdout_line("stopping")
        if how == "slow":
            await daemon.env.sleep(0.5)
        daemon.env.process.stdout_line("stopped")
    finally:
        await listener.close()


if __name__ == "__main__":
    sys.exit(
        run_process(
            main, DaemonOptions(name="small", directory=sys.argv[1], health_port=0, ready_as_json=True)
        )
    )
