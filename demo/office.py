"""One office as people meet it: its commands, its daemon, and officers who log in to its pages.

One rule: nothing here looks inside. What an office knows is what its pages answer; the pages are asked for
JSON, under the same guard, session and form token as a browser.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final

import aiohttp

from demo.stage import Daemon, DemoFailed, Stage, free_port
from keys.errors import PolicyRefused
from node.officers import check_pin

PIN_DIGITS: Final = 6
ANSWER_TIMEOUT_S: Final = 60.0
CONNECTIONS_MAX: Final = 32  # the pages take 64, of which a browser wants some

_GROUPS: Final = frozenset({"routes"})  # commands whose first word is followed by another

Form = Mapping[str, str | Sequence[str]]


class PageRefused(DemoFailed):
    """A page answered with an error: ``word`` is its stable code."""

    def __init__(self, path: str, status: int, word: str, sentence: str) -> None:
        super().__init__(f"{path} answered {status}: {sentence} [{word}]")
        self.status = status
        self.word = word


class PagesGone(DemoFailed):
    """No answer: whether what was asked for was done is not known."""


def new_pin() -> str:
    """A random PIN that an office accepts."""
    while True:
        pin = "".join(secrets.choice("0123456789") for _ in range(PIN_DIGITS))
        try:
            check_pin(pin)
        except PolicyRefused:
            continue
        return pin


@dataclass(frozen=True, slots=True, kw_only=True)
class Officer:
    """One officer of an office, with the PIN of this run."""

    number: int
    alias: str
    role: str
    pin: str = field(repr=False)
    pin_file: Path


class Pages:
    """The pages of one office in the hands of one officer, as a browser would ask for them."""

    def __init__(self, address: str, officer: Officer) -> None:
        """``address`` as the daemon printed it; nothing is sent before ``login``."""
        # The daemon prints localhost, which may mean ::1 first; the pages answer to this name as well.
        self._address = address.replace("localhost", "127.0.0.1")
        self._officer = officer
        self._cookie = ""
        self._csrf = ""
        self._http: aiohttp.ClientSession | None = None

    async def login(self) -> None:
        """Open a session; the cookie is kept by hand, as cookie jars keep Secure ones from plain http."""
        self._csrf, self._cookie = "", ""
        answer, headers = await self._ask(
            "POST", "/login", {"officer": str(self._officer.number), "pin": self._officer.pin}
        )
        self._csrf = answer["csrf"]
        cookie: SimpleCookie = SimpleCookie()
        for line in headers.getall("Set-Cookie", []):
            cookie.load(line)
        self._cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in cookie.items())

    async def get(self, path: str) -> Any:
        """What a page shows."""
        return (await self._ask("GET", path))[0]

    async def post(self, path: str, form: Form | None = None) -> Any:
        """What a page answers to a form."""
        return (await self._ask("POST", path, form or {}))[0]

    async def inbox(self) -> list[dict[str, Any]]:
        """Received alerts, newest first."""
        return list(await self.get("/inbox"))

    async def outbox(self) -> list[dict[str, Any]]:
        """This office's own alerts and where each stands, newest first."""
        return list(await self.get("/outbox"))

    async def submit(self, form: Form) -> dict[str, Any]:
        """Send the form of a new alert; ``state`` released or awaiting_release."""
        return dict(await self.post("/new", {"action": "send", "form_id": secrets.token_hex(16), **form}))

    async def release(self, draft_id: str) -> dict[str, Any]:
        """Release another officer's alert. The page wants the PIN again, and ends the session that asked."""
        try:
            return dict(await self.post(f"/pending/{draft_id}/release", {"pin": self._officer.pin}))
        finally:
            await self.login()

    async def open(self, alert_id: str, reason: str | None = None) -> dict[str, Any]:
        """Open one alert, received or sent; a victim's with a reason."""
        path = f"/alert/{alert_id}"
        return dict(await (self.get(path) if reason is None else self.post(path, {"reason": reason})))

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _ask(self, method: str, path: str, form: Form | None = None) -> tuple[Any, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            )
        headers = {"Accept": "application/json", "Origin": self._address}
        if self._cookie:
            headers |= {"Cookie": self._cookie, "X-Salween-CSRF": self._csrf}
        try:
            async with self._http.request(
                method, f"{self._address}{path}", headers=headers, json=None if form is None else dict(form)
            ) as response:
                answer = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise PagesGone(f"{self._address}{path} did not answer ({type(fault).__name__}).") from fault
        if response.status != 200:
            error = answer.get("error", {})
            words = str(error.get("message", "") or error.get("fields", ""))
            raise PageRefused(path, response.status, str(error.get("code", "")), words)
        return answer, response.headers


class Office:
    """One office on the stage."""

    def __init__(
        self, stage: Stage, name: str, country: str, short: str, *, passphrase: str | None = None
    ) -> None:
        """``short`` names its directory and its log. Without ``passphrase`` one is drawn."""
        self.name = name
        self.country = country
        self.short = short
        self.directory = stage.directory / short
        self.officers: list[Officer] = []
        self._stage = stage
        self.passphrase_file = stage.secret_file(
            f"{short}.passphrase", passphrase or secrets.token_urlsafe(18)
        )
        self._daemon: Daemon | None = None
        self._open_pages: list[Pages] = []

    async def init(self, alias: str, role: str, settings: str = "") -> None:
        """``salween-node init`` with the first officer, on ports that stay over restarts.

        ``settings``: lines that its operator adds to ``node.toml``.
        """
        pin = new_pin()
        pin_file = self._stage.secret_file(f"{self.short}.pin1", pin)
        made = await self.command(
            "init", "--name", self.name, "--country", self.country, "--alias", alias, "--role", role,
            "--pin-file", pin_file, "--web-port", str(free_port()), "--health-port", str(free_port()),
        )  # fmt: skip
        self._note(made, alias, role, pin, pin_file)
        written = self.directory / "node.toml"
        written.write_text(written.read_text() + settings)

    async def add_officer(self, alias: str, role: str) -> None:
        """``salween-node officers add``; the node runs."""
        pin = new_pin()
        pin_file = self._stage.secret_file(f"{self.short}.pin{len(self.officers) + 1}", pin)
        made = await self._stage.command(
            "node", "officers", "add", *self._where, "--alias", alias, "--role", role, "--pin-file", pin_file
        )
        self._note(made, alias, role, pin, pin_file)

    def _note(self, made: dict[str, Any], alias: str, role: str, pin: str, pin_file: Path) -> None:
        self.officers.append(
            Officer(number=made["officer"], alias=alias, role=role, pin=pin, pin_file=pin_file)
        )

    async def command(self, verb: str, *arguments: str | Path, may_refuse: bool = False) -> Any:
        """A command of this office; what it answered. ``may_refuse``: as in ``Stage.command``."""
        words = [verb]
        if verb in _GROUPS:
            words.append(str(arguments[0]))
            arguments = arguments[1:]
        return await self._stage.command("node", *words, *self._where, *arguments, may_refuse=may_refuse)

    def as_officer(self, role: str = "officer") -> tuple[str | Path, ...]:
        """The options by which a command is this officer's."""
        officer = self.officer(role)
        return ("--officer", str(officer.number), "--pin-file", officer.pin_file)

    async def spawn(self, verb: str, *arguments: str | Path) -> asyncio.subprocess.Process:
        """A command of this office that is talked to."""
        return await self._stage.spawn("node", verb, *self._where, *arguments)

    @property
    def _where(self) -> tuple[str | Path, ...]:
        return ("--dir", self.directory, "--passphrase-file", self.passphrase_file)

    @property
    def daemon(self) -> Daemon:
        """Its daemon, made on first use."""
        if self._daemon is None:
            self._daemon = self._stage.daemon(self.short, "node", "run", *self._where, "--json")
        return self._daemon

    def move(self, directory: Path) -> None:
        """Its node works in another directory from now on, with a daemon of its own."""
        self.directory = directory
        self._daemon = None

    @property
    def address(self) -> str:
        """Where its pages are."""
        return str(self.daemon.ready["pages"])

    @property
    def policy(self) -> Path:
        """The policy file that its node keeps beside its log."""
        return self.directory / "policy"

    @property
    def log(self) -> Path:
        """Its published log."""
        return self.directory / "log"

    def officer(self, role: str) -> Officer:
        """The first officer of a role."""
        return next(officer for officer in self.officers if officer.role == role)

    async def pages(self, role: str = "officer") -> Pages:
        """Its pages with an officer of that role logged in."""
        pages = Pages(self.address, self.officer(role))
        self._open_pages.append(pages)
        await pages.login()
        return pages

    async def leave_pages(self) -> None:
        """Close every connection to its pages."""
        pages, self._open_pages = self._open_pages, []
        await asyncio.gather(*(page.close() for page in pages))
