"""A broker with offices of its own, which hands on to another: set up as an operator would.

Spec: docs/operations.md#through-our-own-broker.
"""

from dataclasses import dataclass
from pathlib import Path

from demo.office import Office
from demo.stage import Daemon, DemoFailed, Stage, free_port


@dataclass(frozen=True, slots=True)
class Region:
    """One broker: its process, directory and port."""

    stage: Stage
    daemon: Daemon
    home: Path
    port: int

    @property
    def address(self) -> str:
        """As its ready line says."""
        return str(self.daemon.ready["address"])

    async def hand_on(self, name: str, to: "Region") -> None:
        """What an operator writes into ``broker.toml``, and a start of the daemon."""
        settings = self.home / "broker.toml"
        settings.write_text(settings.read_text() + f'\n[forward]\n{name} = "{to.address}"\n')
        await self.daemon.stop()
        await self.daemon.start()

    async def token(self) -> str:
        """With which mailboxes are made here."""
        made = await self.stage.command("broker", "tokens", "--dir", self.home)
        return str(made["tokens"][0])

    async def carry(self, office: Office, *, to: "Region", name: str) -> None:
        """``salween-node routes add``: this office reaches the other broker through this one."""
        made = await self.stage.command("broker", "tokens", "--dir", self.home, "--forwarding")
        token = self.stage.secret_file(f"{office.short}.{name}", made["tokens"][0])
        await office.command(
            "routes", "add", to.address, "--through", self.address, "--name", name, "--token-file", token
        )


async def open_region(stage: Stage, name: str) -> Region:
    """A broker of that name, running, on a port that stays over restarts."""
    home, port = stage.directory / name, free_port()
    await stage.command("broker", "init", "--dir", home, "--port", str(port), "--health-port", "0")
    daemon = stage.daemon(name, "broker", "run", "--dir", home, "--json")
    await daemon.start()
    return Region(stage, daemon, home, port)


def connected(pid: int) -> set[int]:
    """Ports on this machine to which a process has a TCP connection at this moment."""
    sockets: set[str] = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
        rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError as error:
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            return set()
        raise DemoFailed(f"The connections of a process cannot be read: {error}") from error
    ports: set[int] = set()
    for row in rows:
        words = row.split()
        if words[9] in sockets:
            ports.add(int(words[2].rpartition(":")[2], 16))
    return ports
