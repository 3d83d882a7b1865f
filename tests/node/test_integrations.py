"""Programs' tokens at the desk itself: what is kept, what ends them, and what is sent once."""

from pathlib import Path

import pytest

from keys.errors import PolicyRefused, Unavailable
from node.api.operations import OPERATIONS, Call
from node.integrations import INTEGRATIONS_MAX, SCOPES, Acting
from node.photos import STAGED_BY_PROGRAMS_MAX, STAGED_MAX
from node.views import StagedPhoto, Submitted
from protocol import limits
from tests.node.offices import PIN, Offices, an_alert, count, entries, node_of, play, read, shown, write
from tests.node.pictures import a_jpeg


async def made(offices: Offices, *scopes: str, days: int = 30) -> str:
    """A token of Myitkyina's supervisor."""
    here = offices.here
    await here.log_in()
    session = here.session
    assert session is not None
    integrations = node_of(here).integrations
    token = await here.host.run(
        lambda env: integrations.make(session, PIN, name="dispatch", scopes=scopes or SCOPES, days=days)
    )
    return token.token


async def acting(offices: Offices, token: str) -> Acting:
    """Who shows it."""
    return await offices.here.host.run(lambda env: node_of(offices.here).integrations.acting(token))


async def is_refused(offices: Offices, token: str) -> bool:
    """Whether it is good for nothing."""
    with pytest.raises(PolicyRefused) as caught:
        await acting(offices, token)
    return caught.value.code == "token_wrong"


def test_a_token_is_kept_as_a_hash_and_its_session_is_in_the_log(tmp_path: Path) -> None:
    """Neither the token nor the officer's seed stands in the database; one log-in for many requests."""

    async def script(offices: Offices) -> None:
        token = await made(offices)
        first, second = await acting(offices, token), await acting(offices, token)
        assert first.session == second.session
        (row,) = await read(
            offices.here, lambda tx: tx.execute("SELECT token_hash, sealed_seed FROM integration")
        )
        assert len(row[0]) == 32
        assert len(row[1]) == 24 + 32 + 16
        logins = [e for e in await entries(offices.here, "ses.login") if "sid" in e.fields]
        assert [e.fields["sid"] for e in logins] == [row[0][:16].hex()]
        changes = await entries(offices.here, "cfg.change")
        assert [e.fields["what"] for e in changes] == ["integration-made"]

    play(tmp_path, script)


def test_a_token_ends_with_its_date_its_revocation_and_its_officer(tmp_path: Path) -> None:
    """After any of these it is wrong at once, its session with it; the sealed key is gone when revoked."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)
        dated = await made(offices, days=1)
        await acting(offices, dated)
        here.host.step_clock(2 * limits.DAY_MS)
        assert await is_refused(offices, dated)

        revoked = await made(offices)
        program = await acting(offices, revoked)
        await here.host.run(lambda env: node.integrations.revoke(2))
        assert await is_refused(offices, revoked)
        with pytest.raises(PolicyRefused, match="logged out"):
            await here.host.run(lambda env: node.desk.inbox(program.session))
        assert await count(here, "integration", "sealed_seed IS NULL") == 1

        of_officer = await made(offices)
        await acting(offices, of_officer)
        await here.host.run(lambda env: node.reset_pin(1, "918273"))
        assert await is_refused(offices, of_officer)

    play(tmp_path, script)


def test_a_sending_is_done_once_whatever_happens_to_it(tmp_path: Path) -> None:
    """Asked for again: the first result. Refused: may be tried again. Broken off: said that nobody knows."""

    async def script(offices: Offices) -> None:
        here = offices.here
        program = await acting(offices, await made(offices))
        node = node_of(here)
        (peer,) = await here.peers()

        async def send() -> Submitted:
            return await node.desk.submit(program.session, an_alert("KA-1"), [peer.office_id])

        async def refuse() -> Submitted:
            raise PolicyRefused("window_full", "not now")

        async def break_off() -> Submitted:
            raise Unavailable("disk", "the machine died here")

        once = node.integrations.once
        with pytest.raises(PolicyRefused, match="not now"):
            await here.host.run(lambda env: once(program, "a", refuse))
        first = await here.host.run(lambda env: once(program, "a", send))
        assert await here.host.run(lambda env: once(program, "a", send)) == first
        assert await here.host.run(lambda env: once(program, "b", send)) != first
        with pytest.raises(Unavailable):
            await here.host.run(lambda env: once(program, "c", break_off))
        with pytest.raises(PolicyRefused) as caught:
            await here.host.run(lambda env: once(program, "c", send))
        assert caught.value.code == "sending_unclear"
        assert await count(here, "alert", "incoming = 0") == 2

    play(tmp_path, script)


def test_a_photo_is_uploaded_once_and_leaves_room_for_officers(tmp_path: Path) -> None:
    """Under one key one copy; broken off, it is begun again; half of the room is never a program's."""

    async def script(offices: Offices) -> None:
        here = offices.here
        program = await acting(offices, await made(offices))
        node = node_of(here)
        jpeg = a_jpeg(64)

        (upload,) = [operation for operation in OPERATIONS if operation.takes_photo]

        async def ask(key: str) -> StagedPhoto:
            call = Call(
                desk=node.desk,
                integrations=node.integrations,
                acting=program,
                scope=upload.scope,
                path={},
                sent=jpeg,
                once_key=key,
            )

            async def work() -> StagedPhoto:
                answer = await upload.carry_out(call)
                assert isinstance(answer, StagedPhoto)
                return answer

            return await here.host.run(lambda env: work())

        async def break_off() -> StagedPhoto:
            raise Unavailable("disk", "the machine died here")

        with pytest.raises(Unavailable):
            await here.host.run(lambda env: node.integrations.upload_once(program, "a", break_off))
        first = await ask("a")
        assert await ask("a") == first
        assert await count(here, "photo_staged") == 1
        (peer,) = await here.peers()
        sent = await here.host.run(
            lambda env: node.integrations.once(
                program,
                "a",  # the key of a photo is none of an alert's
                lambda: node.desk.submit(program.session, an_alert("KA-1"), [peer.office_id], [first.photo]),
            )
        )
        assert sent.state == "released"
        # Copies of one row: making sixteen photos takes a processor's seconds and shows no more.
        await ask("b")
        await write(
            here,
            lambda tx: tx.execute(
                "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO photo_staged (name, officer, at_ms, is_ready, kek, sealed)"
                " SELECT CAST(i AS BLOB), officer, at_ms, is_ready, kek, sealed FROM photo_staged, n",
                (STAGED_BY_PROGRAMS_MAX,),
            ),
        )
        assert await count(here, "photo_staged") == STAGED_BY_PROGRAMS_MAX < STAGED_MAX
        with pytest.raises(PolicyRefused, match="Too many photos"):
            await ask("c")
        await here.host.run(lambda env: node.desk.stage_photo(program.session, jpeg))

    play(tmp_path, script)


def test_a_token_within_bounds_or_none(tmp_path: Path) -> None:
    """A wrong PIN, no scope, a false one, no name, too long a life, one too many: refused in words."""

    async def script(offices: Offices) -> None:
        here = offices.here
        session = here.session
        assert session is not None
        make = node_of(here).integrations.make
        for pin, name, scopes, days, code in (
            ("000001", "a", SCOPES, 1, "pin_wrong"),
            (PIN, " ", SCOPES, 1, "integration_invalid"),
            (PIN, "a", (), 1, "integration_invalid"),
            (PIN, "a", ("alerts:release",), 1, "integration_invalid"),
            (PIN, "a", SCOPES, 0, "integration_invalid"),
            (PIN, "a", SCOPES, 400, "integration_invalid"),
        ):
            with pytest.raises(PolicyRefused) as caught:
                await here.host.run(
                    lambda env, p=pin, n=name, s=scopes, d=days: make(session, p, name=n, scopes=s, days=d)  # type: ignore[misc]
                )
            assert caught.value.code == code
        for _ in range(INTEGRATIONS_MAX):
            await made(offices)
        with pytest.raises(PolicyRefused) as caught:
            await made(offices)
        assert caught.value.code == "too_many_integrations"
        assert await shown(offices.there) == 0

    play(tmp_path, script)
