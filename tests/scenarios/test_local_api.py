"""The local API as a program meets it: a real daemon, a real token, and nothing but the document to go by."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from demo.office import Officer
from node.api.openapi import MEDIA_TYPES
from node.api.operations import OPERATIONS
from node.integrations import SCOPES
from protocol import limits
from tests.node.pictures import a_jpeg
from tests.scenarios.test_photos import put_line_between, remade
from tests.scenarios.world import World, delivered, entity
from tests.support.slow_line import slow_line

pytestmark = pytest.mark.scenario

# What a schema cannot say (an alert expires after it was made) is answered 422, as the document says. The
# three others look at a whole session of calls, which no single case is.
LEFT_OUT = {"positive_data_acceptance", "use_after_free", "ensure_resource_availability", "max_response_time"}


@dataclass(slots=True, kw_only=True)
class Program:
    """Something that is no browser, with a token or without."""

    base: str
    token: str
    http: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        said = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, self.base + path, json=body, headers=said) as response:
            return response.status, await response.json()

    async def upload(
        self, picture: bytes, kind: str = "image/jpeg", *, key: str = "a-photo"
    ) -> tuple[int, dict[str, Any]]:
        said = {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Idempotency-Key": key}
        async with self.http.post(self.base + "/photos", data=io.BytesIO(picture), headers=said) as response:
            return response.status, await response.json()

    async def picture(self, path: str) -> tuple[str, bytes]:
        """Its type and bytes."""
        said = {"Authorization": f"Bearer {self.token}"}
        async with self.http.get(self.base + path, headers=said) as response:
            assert response.status == 200, await response.text()
            return response.content_type, await response.read()


@asynccontextmanager
async def programs(world: World) -> AsyncIterator[Program]:
    """All three daemons run; the first office has its API open, and its first officer made no token yet."""
    config = world.sender.directory / "node.toml"
    config.write_text(config.read_text() + "\napi_port = 0\n")
    await world.start()
    async with aiohttp.ClientSession() as http:
        yield Program(base=world.sender.daemon.ready["api"], token="", http=http)


async def a_token(world: World, officer: Officer, *scopes: str, days: int = 1) -> str:
    """``salween-node tokens add``."""
    may = [word for scope in scopes for word in ("--may", scope)]
    ended = await world.run(
        "node", "tokens", "add", "--dir", world.sender.directory,
        "--passphrase-file", world.sender.passphrase_file, "--officer", str(officer.number),
        "--pin-file", world.pin_file(officer.pin), "--name", "dispatch", *may, "--days", str(days), "--json",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.err
    return str(json.loads(ended.out)["token"])


def an_alert(world: World, plate: str) -> dict[str, Any]:
    """The least a program must say."""
    return {
        "alert": {
            "status": "exercise",
            "crime_type": "drug_trafficking",
            "urgency": "expected",
            "severity": "moderate",
            "certainty": "likely",
            "source": "B",
            "information": "2",
            "handling": "H1",
            "tlp": "amber",
            "entities": [{"entity": "vehicle", "plate": plate}],
        },
        "recipients": [world.template.peer_id],
    }


async def test_a_program_sends_reads_and_answers_for_an_officer(world: World) -> None:
    """Sent once however often it is asked for, over a kill of the daemon too; read with an entry."""
    officer = world.template.officers[0][0]
    async with programs(world) as program:
        program.token = await a_token(world, officer, *SCOPES)
        status, partners = await program.ask("GET", "/partners")
        assert (status, partners["items"][0]["office_id"]) == (200, world.template.peer_id)
        sent = [
            await program.ask("POST", "/alerts", an_alert(world, "KA-1"), Idempotency_Key="one")
            for _ in range(3)
        ]
        assert sent[0][0] == 201
        assert sent[0][1]["state"] == "released"
        assert sent[1:] == sent[:2]
        await world.sender.daemon.kill()
        await world.sender.daemon.start()
        program.base = world.sender.daemon.ready["api"]
        assert await program.ask("POST", "/alerts", an_alert(world, "KA-1"), Idempotency_Key="one") == sent[0]

        pages = await world.sender.pages()
        await delivered(pages, 1)
        alert_id = sent[0][1]["alert_id"]
        status, receipts = await program.ask("GET", f"/alerts/{alert_id}/receipts")
        assert (status, receipts["state"]) == (200, "delivered")
        _, outbox = await program.ask("GET", "/outbox")
        assert [row["alert_id"] for row in outbox["items"]] == [alert_id]

        there = await world.receiver.pages()
        assert len(await there.inbox()) == 1
        await there.submit(
            {**world.form("YN-9"), "recipients": [(await there.get("/partners"))[0]["office_id"]]}
        )
        rows: list[dict[str, Any]] = []
        async with asyncio.timeout(40):
            while not rows:
                rows = (await program.ask("GET", "/inbox?only_unopened=true"))[1]["items"]
        incoming = rows[0]["alert_id"]
        status, view = await program.ask("POST", f"/alerts/{incoming}/open", {"purpose": "duty"})
        assert status == 200
        assert entity(view, "plate") == "YN-9"
        step = {"step": "assigned"}
        assert (await program.ask("POST", f"/alerts/{incoming}/answers", step))[0] == 201
        (entry,) = [e for e in await pages.get("/audit") if e["index"] == view["access_index"]]
        assert (entry["kind"], entry["fields"]["purpose"]) == ("acc.read", "duty")

        lead, keeper = (officers[1] for officers in world.template.officers)
        ended = await world.run_node(
            world.receiver, "hold", alert_id, "--officer", str(keeper.number), "--pin-file",
            world.pin_file(keeper.pin), "--reason", "court", "--days", "366", "--json",
        )  # fmt: skip
        assert ended.exit_code == 0, ended.out + ended.err
        erasing = {"reason": "mistake", "pin": "0"}
        status, refused = await program.ask("POST", f"/alerts/{alert_id}/erasure", erasing)
        assert (status, refused["code"]) == (409, "supervisor_only")
        program.token = await a_token(world, lead, *SCOPES)
        status, refused = await program.ask("POST", f"/alerts/{alert_id}/erasure", erasing)
        assert (status, refused["code"]) == (409, "pin_wrong")
        erasing["pin"] = lead.pin
        status, fate = await program.ask("POST", f"/alerts/{alert_id}/erasure", erasing)
        assert (status, fate["erased_why"]) == (201, "mistake")
        async with asyncio.timeout(40):
            while (await program.ask("GET", "/outbox"))[1]["items"][0]["gone_why"] != "mistake":
                await asyncio.sleep(0.2)
        assert len(await there.inbox()) == 1
        ended = await world.run_node(
            world.receiver, "erase", alert_id, "--officer", str(keeper.number), "--pin-file",
            world.pin_file(keeper.pin), "--reason", "needless", "--json",
        )  # fmt: skip
        assert (ended.exit_code, json.loads(ended.out)["error"]["code"]) == (1, "alert_held"), ended.err


async def test_a_program_sends_and_fetches_photos(world: World, tmp_path: Path) -> None:
    """What is answered is what the worker made, byte for byte; not before the alert is opened, which is the
    access in the log, and not before the picture is whole."""
    known, moved = put_line_between(world)
    jpeg = a_jpeg(400)
    async with slow_line(known, moved, 40_000.0) as line, programs(world) as program:
        program.token = await a_token(world, world.template.officers[0][0], *SCOPES)
        status, first = await program.upload(jpeg, key="one")
        assert status == 201
        assert await program.upload(jpeg, key="one") == (201, first)
        photo = first["photo"]
        alert = {**an_alert(world, "KA-1"), "photos": [photo]}
        twice = {**alert, "photos": [photo, photo]}
        assert (await program.ask("POST", "/alerts", twice, Idempotency_Key="s"))[0] == 422
        status, sent = await program.ask("POST", "/alerts", alert, Idempotency_Key="s")
        assert status == 201
        assert await program.ask("POST", "/alerts", alert, Idempotency_Key="s") == (201, sent)
        again = await program.ask("POST", "/alerts", alert, Idempotency_Key="again")
        assert (again[0], again[1]["code"]) == (409, "photo_gone")

        there = await world.receiver.pages()
        async with asyncio.timeout(40):
            while not await there.inbox():
                await asyncio.sleep(0.2)
        await world.receiver.leave_pages()
        # The same way back: the line slows down as soon as the alert is here, so that its photo is not.
        file, written = tmp_path / "photo.jpg", tmp_path / "alert.json"
        file.write_bytes(jpeg)
        written.write_text(json.dumps(an_alert(world, "YN-9")["alert"]))
        author = world.template.officers[1][0]
        ended = await world.run_node(
            world.receiver, "send", "--officer", str(author.number), "--pin-file", world.pin_file(author.pin),
            "--to", world.sender.name, "--file", written, "--photo", file, "--json",
        )  # fmt: skip
        assert ended.exit_code == 0, ended.out + ended.err
        alert_id = json.loads(ended.out)["alert_id"]
        beside = f"/alerts/{alert_id}/photos"
        async with asyncio.timeout(40):
            while not (await program.ask("GET", "/inbox?only_unopened=true"))[1]["items"]:
                await asyncio.sleep(0.2)
        line.bytes_per_s = 2_000.0
        for path in (beside, f"{beside}/0"):
            refused = await program.ask("GET", path)
            assert (refused[0], refused[1]["code"]) == (409, "photo_alert_first")
        status, view = await program.ask("POST", f"/alerts/{alert_id}/open", {"purpose": "duty"})
        assert (status, [p["state"] for p in view["photos"]]) == (200, ["coming"])
        early = await program.ask("GET", f"{beside}/0")
        assert (early[0], early[1]["code"]) == (409, "photo_not_here")
        assert (await program.ask("GET", f"{beside}/2"))[1]["code"] == "photo_unknown"
        line.bytes_per_s = 4_000_000.0
        async with asyncio.timeout(90):
            while (await program.ask("GET", beside))[1]["items"][0]["state"] == "coming":
                await asyncio.sleep(0.3)
        assert [(p["number"], p["state"]) for p in (await program.ask("GET", beside))[1]["items"]] == [
            (0, "whole")
        ]
        made = remade(jpeg)
        assert await program.picture(f"{beside}/0") == ("image/jpeg", made)
        kind, thumbnail = await program.picture(f"{beside}/1")
        assert kind == "image/jpeg"
        assert len(thumbnail) < limits.THUMBNAIL_BYTES_MAX
        pages = await world.sender.pages()
        reads = [e for e in await pages.get("/audit") if e["kind"] == "acc.read"]
        assert [e["index"] for e in reads] == [view["access_index"]]

        # Our own: what we sent, as it is kept here.
        own = sent["alert_id"]
        await program.ask("POST", f"/alerts/{own}/open", {"purpose": "duty"})
        assert await program.picture(f"/alerts/{own}/photos/1") == ("image/jpeg", thumbnail)


async def test_what_is_no_photo_is_refused(world: World) -> None:
    """Another kind, whatever it says it is; too large; no key, no token, another scope; forgotten again."""
    async with programs(world) as program:
        officer = world.template.officers[0][0]
        jpeg = a_jpeg(64)
        assert (await program.upload(jpeg))[1]["code"] == "token_wrong"
        program.token = await a_token(world, officer, "alerts:read")
        assert (await program.upload(jpeg))[1]["code"] == "scope_missing"
        program.token = await a_token(world, officer, "alerts:send")
        zeros = "0" * 64
        for path in (f"/alerts/{zeros}/photos", f"/alerts/{zeros}/photos/0"):
            assert (await program.ask("GET", path))[1]["code"] == "scope_missing"
        for data, kind, status, code in (
            (b"<svg onload='alert(1)'/>", "image/jpeg", 422, "photo_kind"),
            (b"", "image/jpeg", 422, "photo_kind"),
            (jpeg[:-200], "image/jpeg", 422, "photo_damaged"),
            (jpeg, "image/svg+xml", 415, "content_type_refused"),
            (jpeg, "multipart/form-data; boundary=x", 415, "content_type_refused"),
            (bytes(limits.PHOTO_BYTES_MAX + 1), "image/jpeg", 413, "photo_too_large"),
        ):
            said = await program.upload(data, kind)
            assert (said[0], said[1]["code"]) == (status, code), data[:20]
        assert (await program.upload(jpeg, key="ö"))[1]["code"] == "request_invalid"
        photo = (await program.upload(jpeg))[1]["photo"]
        assert (await program.ask("DELETE", f"/photos/{photo}"))[0] == 200
        assert (await program.ask("DELETE", f"/photos/{photo}"))[1]["code"] == "photo_gone"
        sending = {**an_alert(world, "KA-1"), "photos": [photo]}
        assert (await program.ask("POST", "/alerts", sending, Idempotency_Key="k"))[1]["code"] == "photo_gone"


async def test_a_token_may_what_it_says_until_it_ends(world: World) -> None:
    """Another scope, a false token, none, a revoked one, a PIN that was reset, an officer who is gone."""
    officer, other = world.template.officers[0][0], world.template.officers[0][-1]
    async with programs(world) as program:
        assert (await program.ask("GET", "/status"))[0] == 401
        for wrong in ("x", "salween-api1-aaaa", "salween-token1-" + "a" * 56):
            program.token = wrong
            assert (await program.ask("GET", "/status"))[1]["code"] == "token_wrong"
        program.token = await a_token(world, officer, "status:read")
        status, said = await program.ask("GET", "/status")
        assert (status, said["office_id"] != "") == (200, True)
        for method, path, body in (
            ("GET", "/inbox", None),
            ("GET", "/outbox", None),
            ("GET", "/partners", None),
            ("POST", f"/alerts/{'0' * 64}/open", {"purpose": "duty"}),
            ("POST", f"/alerts/{'0' * 64}/answers", {"step": "assigned"}),
            ("GET", f"/alerts/{'0' * 64}/receipts", None),
        ):
            assert (await program.ask(method, path, body))[1]["code"] == "scope_missing"
        sending = await program.ask("POST", "/alerts", an_alert(world, "KA-1"), Idempotency_Key="k")
        assert sending[1]["code"] == "scope_missing"
        where = ("--dir", world.sender.directory, "--passphrase-file", world.sender.passphrase_file)
        assert (await world.run("node", "tokens", "revoke", *where, "1", "--json")).exit_code == 0
        assert (await program.ask("GET", "/status"))[1]["code"] == "token_wrong"
        assert (await world.run("node", "tokens", "revoke", *where, "1", "--json")).exit_code == 1
        listed = json.loads((await world.run("node", "tokens", "list", *where, "--json")).out)["tokens"]
        assert [(t["name"], t["state"]) for t in listed] == [("dispatch", "revoked")]

        program.token = await a_token(world, other, "status:read")
        assert (await program.ask("GET", "/status"))[0] == 200
        reset = await world.run(
            "node", "officers", "reset-pin", *where, str(other.number), "--pin-file", world.pin_file("918273")
        )
        assert reset.exit_code == 0, reset.err
        assert (await program.ask("GET", "/status"))[1]["code"] == "token_wrong"


async def test_no_browser_and_no_other_name_is_answered(world: World) -> None:
    """With a good token: another Host, what a browser adds, a body that is no JSON, too long, or cut."""
    async with programs(world) as program:
        program.token = await a_token(world, world.template.officers[0][0], *SCOPES)
        for headers, code in (
            ({"Host": "evil.example"}, "host_unknown"),
            ({"Origin": "http://localhost:1"}, "browser_refused"),
            ({"Sec_Fetch_Site": "same-site"}, "browser_refused"),
        ):
            assert (await program.ask("GET", "/status", **headers))[1]["code"] == code
        token = {"Authorization": f"Bearer {program.token}", "Idempotency-Key": "k"}
        for body, kind, status in (
            (b"{}", "text/plain", 415),
            (b"{", "application/json", 422),
            (b'{"alert": {}, "recipients": [], "more": 1}', "application/json", 422),
            (b"[" * 100_000, "application/json", 422),
            (b" " * 300_000, "application/json", 413),
            (b"\xff\xfe", "application/json", 422),
        ):
            async with program.http.post(
                program.base + "/alerts", data=body, headers={**token, "Content-Type": kind}
            ) as response:
                assert response.status == status, (body[:20], await response.text())
        assert (await program.ask("GET", "/status"))[0] == 200


async def test_the_api_does_what_its_document_says(world: World) -> None:
    """Schemathesis reads the document and asks everything it can think of: never 500, never a status, a type
    or a body the document does not have, and nothing without a token."""
    async with programs(world) as program:
        token = await a_token(world, world.template.officers[0][0], *SCOPES)
        await asyncio.to_thread(_explore, program.base, token)


def _explore(base: str, token: str) -> None:
    load_all_checks()
    for kind in MEDIA_TYPES.values():
        schemathesis.openapi.media_type(kind, strategies.binary(max_size=200) | strategies.just(a_jpeg(32)))
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in LEFT_OUT]
    assert len(checks) >= 9
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) == len(OPERATIONS)
    for operation in operations:
        for mode in GenerationMode:

            @settings(
                max_examples=20,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def explore(case: Any) -> None:
                assume("" not in (case.query or {}))  # it never leaves, and so nothing is wrong with the rest
                case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=checks)

            with contextlib.suppress(Unsatisfiable):  # nothing about it can be wrong
                explore()
