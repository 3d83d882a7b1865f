"""Two paired offices and their broker as real processes, set up once and copied for each test.

Pairing costs seconds; a copy of three directories costs nothing, and each test may damage its own. Ports stay
those of the original: they stand in configurations and in the broker's address.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.identity import UNLOCK_NAME
from demo.office import Form, Office, Officer, Pages
from demo.playground import OFFICES, open_playground
from demo.stage import Daemon, Stage
from keys.keystore import Keystore
from keys.secret import SecretBytes
from node.layout import KEYSTORE_NAME
from runtime.env import RealFiles
from tests.broker.ends import CHEAP_KDF

BROKER = "broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A world that was paired and then stopped."""

    directory: Path
    officers: tuple[tuple[Officer, ...], ...]
    passphrases: tuple[str, ...]
    peer_id: str  # of the second office, as the first knows it
    spent_token: str  # made all the mailboxes it may make


async def make_template(directory: Path) -> Template:
    """Start, pair, stop; keep the three directories."""
    async with Stage.open() as stage:
        ground = await open_playground(stage)
        first, second = ground.offices
        pages = await first.pages()
        peer_id = (await pages.get("/partners"))[0]["office_id"]
        await first.leave_pages()
        token = (stage.directory / f"{first.short}-{second.short}.token").read_text().strip()
        for daemon in stage.daemons:
            await daemon.stop()
        for name in (BROKER, *(office.short for office in ground.offices)):
            shutil.copytree(stage.directory / name, directory / name)
        # Their keystores were made and opened at the real cost; a hundred starts of copies need not pay it.
        make_cheap(directory / BROKER, (directory / BROKER / UNLOCK_NAME).read_text().strip())
        for office in ground.offices:
            make_cheap(directory / office.short, office.passphrase_file.read_text().strip())
        return Template(
            directory=directory,
            officers=tuple(tuple(office.officers) for office in ground.offices),
            passphrases=tuple(office.passphrase_file.read_text().strip() for office in ground.offices),
            peer_id=peer_id,
            spent_token=token,
        )


def make_cheap(home: Path, passphrase: str) -> None:
    """The same keys under the same passphrase, in a keystore that is opened at once."""
    path, secret = home / KEYSTORE_NAME, SecretBytes(passphrase.encode())
    store = Keystore.open(RealFiles(), path, secret, random=os.urandom)
    path.unlink()
    keys = {name: store.get(name) for name in store.names()}
    Keystore.create(RealFiles(), path, secret, keys, random=os.urandom, kdf=CHEAP_KDF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The error it printed as JSON."""
        return dict(json.loads(self.out)["error"])


class World:
    """One test's copy. Nothing runs until it is started."""

    def __init__(self, stage: Stage, template: Template) -> None:
        self.stage = stage
        self.template = template
        for name in (BROKER, *(short for _, _, short in OFFICES)):
            shutil.copytree(template.directory / name, stage.directory / name)
        self.sender, self.receiver = (
            Office(stage, *facts, passphrase=passphrase)
            for facts, passphrase in zip(OFFICES, template.passphrases, strict=True)
        )
        for office, officers in zip(self.offices, template.officers, strict=True):
            office.officers.extend(officers)
        self.broker_home = stage.directory / BROKER
        self.broker = stage.daemon(BROKER, "broker", "run", "--dir", self.broker_home, "--json")

    @property
    def offices(self) -> tuple[Office, Office]:
        return self.sender, self.receiver

    @property
    def daemons(self) -> tuple[Daemon, Daemon, Daemon]:
        return self.broker, self.sender.daemon, self.receiver.daemon

    async def start(self, *daemons: Daemon) -> None:
        """Start these, or all three."""
        await asyncio.gather(*(daemon.start() for daemon in daemons or self.daemons))

    def form(self, plate: str) -> Form:
        """A vehicle alert to the other office."""
        return vehicle(self.template.peer_id, plate)

    async def run(self, package: str, *arguments: str | Path) -> Ended:
        """A command, however it ends."""
        process = await self.stage.spawn(package, *arguments)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(exit_code=process.returncode, out=out.decode(), err=err.decode())

    async def run_node(self, office: Office, verb: str, *arguments: str | Path) -> Ended:
        """A command of an office, with its passphrase."""
        return await self.run(
            "node", verb, "--dir", office.directory, "--passphrase-file", office.passphrase_file, *arguments
        )

    def pin_file(self, pin: str) -> Path:
        """A file holding a PIN."""
        path = self.stage.directory / "typed.pin"
        path.unlink(missing_ok=True)
        return self.stage.secret_file(path.name, pin)


def vehicle(peer_id: str, plate: str) -> Form:
    """A vehicle alert to one office."""
    return {
        "kind": "vehicle",
        "recipients": [peer_id],
        "status": "exercise",
        "urgency": "expected",
        "crime_type": "drug_trafficking",
        "source": "B",
        "information": "2",
        "vehicle.plate": plate,
        "vehicle.colour": "white",
    }


@asynccontextmanager
async def opened(template: Template) -> AsyncIterator[World]:
    """A copy of the template, gone afterwards with every process in it."""
    async with Stage.open() as stage:
        world = World(stage, template)
        try:
            yield world
        finally:
            await asyncio.gather(*(office.leave_pages() for office in world.offices))


def waiting(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an outbox without a verified receipt."""
    return [row for row in rows if row["state"] in ("waiting", "on_broker")]


async def delivered(pages: Pages, count: int, timeout_s: float = 40.0) -> list[dict[str, Any]]:
    """Wait until the outbox holds ``count`` alerts, all of them delivered; the outbox."""
    rows: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(timeout_s):
            while len(rows := await pages.outbox()) < count or waiting(rows):
                await asyncio.sleep(0.05)
    except TimeoutError:
        still = waiting(rows)
        raise AssertionError(
            f"{count} alerts were confirmed; the outbox holds {len(rows)}, {len(still)} wait: {still[:1]}"
        ) from None
    return rows


def entity(view: dict[str, Any], name: str) -> Any:
    """A field of the first entity of an opened alert."""
    return view["fields"]["entities"][0][name]
