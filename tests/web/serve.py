"""The pages of a desk in memory on a free port of this machine, and a client that speaks like a browser."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import aiohttp

from node.web.app import make_app
from node.web.guard import local_hosts
from runtime.env import Clock, Env, Listener, real_env
from tests.web.fake_desk import NOW_MS, PIN, FakeDesk


class StoppedClock:
    """Pages are compared, so their time stands still."""

    def now_ms(self) -> int:
        return NOW_MS

    def now_us(self) -> int:
        return NOW_MS * 1000

    def monotonic_ms(self) -> int:
        return 0


def stopped_env() -> Env:
    """The real environment but for the clock."""
    real = real_env()
    clock: Clock = StoppedClock()
    return Env(
        clock=clock,
        files=real.files,
        network=real.network,
        threads=real.threads,
        process=real.process,
        entropy=real.entropy,
        boot_id=real.boot_id,
    )


@dataclass
class Answer:
    """What came back, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: dict[str, str]
    location: str


@dataclass
class Client:
    """Speaks like a page of the same origin, and keeps cookies that no library would send over HTTP."""

    session: aiohttp.ClientSession
    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    async def ask(
        self,
        method: str,
        path: str,
        *,
        data: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        without: tuple[str, ...] = (),
    ) -> Answer:
        sent = {"Host": f"localhost:{self.port}", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method == "POST":
            sent |= {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"}
        sent |= dict(headers or {})
        kept = {name: value for name, value in sent.items() if name not in without}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(
            method, url, data=data, headers=kept, allow_redirects=False
        ) as answer:
            text = (await answer.read()).decode("utf-8", "replace")
            found = {name: morsel.value for name, morsel in answer.cookies.items()}
            for name, value in found.items():
                if value:
                    self.cookies[name] = value
                else:
                    self.cookies.pop(name, None)
            csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', text)
            if csrf is not None:
                self.csrf = csrf[1]
            return Answer(
                status=answer.status,
                headers=answer.headers,
                text=text,
                cookies=found,
                location=answer.headers.get("Location", ""),
            )

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, str | list[str]], **headers: str) -> Answer:
        data = urlencode({"csrf": self.csrf, **form}, doseq=True)
        return await self.ask("POST", path, data=data, headers=headers)

    async def login(self, officer: int = 1, pin: str = PIN) -> Answer:
        answer = await self.post("/login", {"officer": str(officer), "pin": pin})
        if answer.status == 303:
            await self.get("/status")
        return answer


@asynccontextmanager
async def serving(desk: FakeDesk) -> AsyncIterator[Listener]:
    """The pages of ``desk`` on a free port."""
    env = stopped_env()
    listeners: list[Listener] = []
    app = make_app(desk, env=env, hosts=lambda: local_hosts(listeners[0].port))
    listeners.append(await env.network.serve_tcp(app, host="127.0.0.1", port=0))
    try:
        yield listeners[0]
    finally:
        await listeners[0].close()


@asynccontextmanager
async def client_of(listener: Listener) -> AsyncIterator[Client]:
    """A client without cookies yet."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent", "Accept-Encoding")
    ) as session:
        yield Client(session=session, port=listener.port)
