"""Release: who must sign, what signatures cover, whom they reach; at both ends."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import trust
from keys.card import OfficerEntry
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from protocol import limits, wire
from protocol.alert import Alert
from protocol.disclosures import (
    AlertCore,
    alert_id,
    decode_core_untrusted,
    decode_disclosures_untrusted,
    join_alert,
)
from protocol.release import (
    Mode,
    OfficerSigner,
    ReleasedAlert,
    ReleasePolicy,
    check_audience_untrusted,
    check_release,
    draft_digest,
    mode_for,
    needs_second_officer,
    opening_among_untrusted,
    prepare,
    prepared_from_bytes,
    release_prepared,
)
from tests.protocol.offices import (
    MAE_SAI,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    counting_random,
    released,
    vehicle_alert,
    victim_alert,
)

POLICY = ReleasePolicy()


def check(
    one: ReleasedAlert,
    *,
    recipient: bytes = TENGCHONG.id,
    opening: bytes | None = b"mine",
    core: AlertCore | None = None,
    policy: ReleasePolicy = POLICY,
) -> bool:
    """What the recipient's node does with it."""
    core = core or decode_core_untrusted(one.core)
    alert = join_alert(core, decode_disclosures_untrusted(one.disclosures))
    known = MYITKYINA.as_peer()
    return check_release(
        alert,
        core,
        officer=lambda version, number: trust.officer_key(known, version, number),
        office_id=recipient,
        opening=one.opening_for(TENGCHONG.id) if opening == b"mine" else opening,
        policy=policy,
    )


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(PolicyRefused) as caught:
        call(*args, **kwargs)
    return caught.value.code


# --- who must sign ---


@pytest.mark.parametrize(
    "changes",
    [
        {"entities": [{"entity": "person", "role": "victim"}]},
        {"entities": [{"entity": "person", "role": "driver", "name": "Person One"}]},
        {"entities": [{"entity": "person", "role": "driver", "name_romanised": "Person One"}]},
        {"entities": [{"entity": "person", "role": "driver", "document": "A1"}]},
        {"handling": "H2"},
        {"handling": "H3", "handling_text": "ask first"},
        {"tlp": "red"},
    ],
)
def test_what_can_hurt_a_person_needs_two_officers_at_both_ends(changes: dict[str, Any]) -> None:
    """Victims, named persons, H2 and above, TLP:RED: neither sender nor recipient takes one officer."""
    alert = vehicle_alert(**changes)
    assert needs_second_officer(alert)
    assert refusal(released, alert) == "second_officer_needed"
    two = released(alert, releaser=3)
    assert check(two) is False
    core = decode_core_untrusted(two.core)
    one_signature = replace(core, signatures=core.signatures[:1])
    assert refusal(check, two, core=one_signature) == "second_officer_missing"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"handling": "H1"},
        {"entities": [{"entity": "person", "role": "driver", "description": "red cap"}]},
        {"tlp": "amber+strict"},
    ],
)
def test_everything_else_one_officer_may_release(changes: dict[str, Any]) -> None:
    """A plate in the night does not wait for a supervisor."""
    alert = vehicle_alert(**changes)
    assert not needs_second_officer(alert)
    assert check(released(alert)) is False


def test_author_and_releaser_are_two_officers() -> None:
    """One officer signing twice is one officer, also under a second number; the recipient sees both."""
    assert refusal(released, victim_alert(), releaser=1) == "same_officer"
    prepared = prepare(
        victim_alert(), author=MYITKYINA.officer(1), audience=[TENGCHONG.id], random=counting_random("x")
    )
    twin = replace(MYITKYINA.officer(3), key=MYITKYINA.officer(1).key)
    one = release_prepared(prepared, policy=POLICY, now_ms=NOW_MS, releaser=twin)
    core, alert = decode_core_untrusted(one.core), victim_alert()
    entries = {entry.number: entry for entry in MYITKYINA.officer_entries()}
    entries[3] = replace(entries[3], public=entries[1].public)

    def seen(core: AlertCore, known: dict[int, OfficerEntry]) -> str:
        return refusal(
            check_release,
            alert,
            core,
            officer=lambda _, number: known[number],
            office_id=TENGCHONG.id,
            opening=one.opening_for(TENGCHONG.id),
            policy=POLICY,
        )

    assert seen(core, entries) == "same_officer"
    again = replace(core.signatures[1], officer_number=1)
    renamed = replace(core, signatures=(core.signatures[0], again))
    assert seen(renamed, {1: entries[1]}) == "same_officer"


def test_by_default_the_second_officer_is_a_supervisor_at_both_ends() -> None:
    """An office may choose otherwise for itself; the recipient judges by its own policy."""
    assert refusal(released, victim_alert(), releaser=2) == "supervisor_needed"
    lenient = ReleasePolicy(supervisor_releases=False)
    prepared = prepare(
        victim_alert(),
        author=MYITKYINA.officer(1),
        audience=[TENGCHONG.id],
        random=counting_random("x"),
    )
    two = release_prepared(prepared, policy=lenient, now_ms=NOW_MS, releaser=MYITKYINA.officer(2))
    assert check(two, policy=lenient) is False
    assert refusal(check, two) == "supervisor_needed"


def test_a_second_signature_nobody_needs_is_kept() -> None:
    """Two officers may always release; then the alert says so."""
    two = released(vehicle_alert(), releaser=2)
    assert [s.role for s in decode_core_untrusted(two.core).signatures] == ["author", "releaser"]
    assert check(two) is False


# --- one officer in an emergency ---


def test_an_emergency_release_is_signed_again_with_a_reason_and_marked() -> None:
    """When no second officer can be reached the author signs alone, and everyone can see it."""
    one = released(victim_alert(), emergency_reason="boat leaves in 10 minutes, nobody else on duty")
    assert one.is_emergency
    assert check(one) is True
    signature = decode_core_untrusted(one.core).signatures[1]
    assert (signature.role, signature.officer_number) == ("emergency", 1)
    assert "nobody else" in signature.reason


def test_an_emergency_needs_a_reason_in_words() -> None:
    """Blank or unreadable reasons are no reasons."""
    assert refusal(released, victim_alert(), emergency_reason=" ") == "emergency_reason"
    assert refusal(released, victim_alert(), emergency_reason="x\u202ey") == "emergency_reason"
    long = "x" * (limits.REASON_POINTS_MAX + 1)
    assert refusal(released, victim_alert(), emergency_reason=long) == "emergency_reason"


def test_an_office_may_forbid_emergencies_for_itself_and_from_others() -> None:
    """The policy counts at both ends."""
    strict = ReleasePolicy(emergency_allowed=False)
    one = released(victim_alert(), emergency_reason="nobody else on duty")
    assert refusal(check, one, policy=strict) == "emergency_not_allowed"
    prepared = prepare(
        victim_alert(), author=MYITKYINA.officer(1), audience=[TENGCHONG.id], random=counting_random("x")
    )
    code = refusal(
        release_prepared,
        prepared,
        policy=strict,
        now_ms=NOW_MS,
        emergency_author=MYITKYINA.officer(1),
        emergency_reason="nobody else on duty",
    )
    assert code == "emergency_not_allowed"


def test_the_node_cannot_turn_a_waiting_alert_into_an_emergency() -> None:
    """The author's first signature does not serve as an emergency one, and the reason is under the second."""
    one = released(victim_alert(), emergency_reason="nobody else on duty")
    core = decode_core_untrusted(one.core)
    author, emergency = core.signatures
    for forged in (
        replace(author, role="emergency", reason="nobody else on duty"),
        replace(emergency, reason="somebody agreed"),
    ):
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            check(one, core=replace(core, signatures=(author, forged)))


def test_an_emergency_is_the_authors_own() -> None:
    """Another officer cannot declare it in the author's place, at either end."""
    prepared = prepare(
        victim_alert(), author=MYITKYINA.officer(1), audience=[TENGCHONG.id], random=counting_random("x")
    )
    code = refusal(
        release_prepared,
        prepared,
        policy=POLICY,
        now_ms=NOW_MS,
        emergency_author=MYITKYINA.officer(2),
        emergency_reason="nobody else on duty",
    )
    assert code == "emergency_author"
    mixed = emergency_by_another()
    assert refusal(check, mixed[0], core=mixed[1]) == "emergency_author"


def emergency_by_another() -> tuple[ReleasedAlert, AlertCore]:
    """Officer 1 wrote it, officer 2 declared the emergency over the very same content."""
    mine = released(victim_alert(), emergency_reason="nobody else on duty")
    core = decode_core_untrusted(mine.core)
    twin = prepare(
        victim_alert(),
        author=MYITKYINA.officer(2),
        audience=[TENGCHONG.id],
        random=counting_random("release"),
    )
    assert twin.core.unsigned_id == core.unsigned_id
    theirs = release_prepared(
        twin,
        policy=POLICY,
        now_ms=NOW_MS,
        emergency_author=MYITKYINA.officer(2),
        emergency_reason="nobody else on duty",
    )
    signatures = (core.signatures[0], decode_core_untrusted(theirs.core).signatures[1])
    return mine, replace(core, signatures=signatures)


# --- what signatures cover ---


@given(
    st.sampled_from(["codes", "created_ms", "expires_ms", "erase_at_ms", "digests", "audience_root", "salt"])
)
def test_nothing_can_be_changed_after_an_officer_signed(field: str) -> None:
    """Codes, times, values and recipients are all under both officers' signatures."""
    one = released(victim_alert(), releaser=3)
    core = decode_core_untrusted(one.core)
    changed: dict[str, Any] = {
        "codes": {**core.codes, "crime_type": "wanted_person"},
        "created_ms": core.created_ms - 1,
        "expires_ms": core.expires_ms - 1,
        "erase_at_ms": core.erase_at_ms + 1,
        "digests": (*core.digests, b"\xff" * 32),
        "audience_root": bytes(32),
        "salt": bytes(32),
    }
    alert = join_alert(core, decode_disclosures_untrusted(one.disclosures))
    known = MYITKYINA.as_peer()
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        check_release(
            alert,
            replace(core, **{field: changed[field]}),
            officer=lambda version, number: trust.officer_key(known, version, number),
            office_id=TENGCHONG.id,
            opening=one.opening_for(TENGCHONG.id),
            policy=POLICY,
        )


def test_signatures_cannot_change_roles_or_officers() -> None:
    """An author's signature does not release, and nobody signs as somebody else."""
    one = released(victim_alert(), releaser=3)
    core = decode_core_untrusted(one.core)
    author, releaser = core.signatures
    for forged in (
        (author, replace(releaser, role="author")),
        (author, author),
    ):
        assert refusal(check, one, core=replace(core, signatures=forged)) == "officer_signatures"
    for forged in (
        (replace(author, role="releaser"), replace(releaser, role="author")),
        (author, replace(releaser, officer_number=2)),
        (author, replace(releaser, signature=bytes(64))),
        (author, replace(author, role="releaser", officer_number=3)),
    ):
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            check(one, core=replace(core, signatures=forged))
    assert refusal(check, one, core=replace(core, signatures=())) == "author_missing"
    assert refusal(check, one, core=replace(core, signatures=(releaser,))) == "author_missing"


def test_an_officer_is_looked_up_on_the_list_the_signature_names() -> None:
    """Unknown list: wait. Not on it: refused. Left the office before the alert was made: refused."""

    def by(signer: OfficerSigner) -> ReleasedAlert:
        prepared = prepare(
            vehicle_alert(), author=signer, audience=[TENGCHONG.id], random=counting_random("x")
        )
        return release_prepared(prepared, policy=POLICY, now_ms=NOW_MS)

    with pytest.raises(Unavailable, match="pending_officer_list"):
        check(by(MYITKYINA.officer(1, list_version=2)))
    with pytest.raises(VerificationFailed, match="officer_unknown"):
        check(by(MYITKYINA.officer(9)))
    assert refusal(check, by(MYITKYINA.officer(4))) == "officer_not_valid"


def test_an_officer_from_an_office_whose_clock_stands_at_1970_gets_through() -> None:
    """Only the end of an officer's time counts: a flat battery stops no alert."""
    early = vehicle_alert(created_ms=1, expires_ms=2 * limits.DAY_MS, erase_at_ms=3 * limits.DAY_MS)
    prepared = prepare(
        early, author=MYITKYINA.officer(1), audience=[TENGCHONG.id], random=counting_random("x")
    )
    assert check(release_prepared(prepared, policy=POLICY, now_ms=2)) is False


# --- the audience ---


def offices(count: int) -> list[bytes]:
    return [bytes([n]) * 32 for n in range(count)]


@given(st.integers(1, 20) | st.just(limits.RECIPIENTS_MAX))
def test_every_recipient_has_an_opening_that_nobody_else_can_use(count: int) -> None:
    """Each opening leads from its own office to the one signed root, and from no other."""
    one = released(vehicle_alert(), audience=offices(count))
    root = decode_core_untrusted(one.core).audience_root
    for number, (office_id, opening) in enumerate(one.audience):
        check_audience_untrusted(root, office_id, opening)
        for stranger in (TENGCHONG.id, one.audience[number - 1][0]):
            if stranger != office_id:
                with pytest.raises(PolicyRefused, match="not_in_audience"):
                    check_audience_untrusted(root, stranger, opening)


def test_an_opening_names_no_other_recipient() -> None:
    """Neither ids nor salts of others stand in it; its length tells their number only to a power of two."""
    one = released(vehicle_alert(), audience=offices(5))
    for office_id, opening in one.audience:
        assert len(opening) == 18 + 3 * 32
        assert not any(other in opening for other in offices(5) if other != office_id)
    salts = [opening[:16] for _, opening in one.audience]
    assert len(set(salts)) == 5


def test_a_recipient_learns_neither_names_nor_places_of_the_others() -> None:
    """Five and eight look alike to each of them, and the first of a list stands anywhere."""
    fewer = released(vehicle_alert(), audience=offices(5), name="fewer")
    more = released(vehicle_alert(), audience=offices(8), name="more")
    assert {len(opening) for _, opening in (*fewer.audience, *more.audience)} == {18 + 3 * 32}
    assert len(fewer.audience_leaves) == len(more.audience_leaves) == 8
    assert len(set(fewer.audience_leaves)) == 8
    for one in (fewer, more):
        assert len({one.place_of(office_id)[1] for office_id, _ in one.audience}) == len(one.audience)
    first = {
        released(vehicle_alert(), audience=offices(5), name=f"lot {n}").place_of(offices(5)[0])[1]
        for n in range(64)
    }
    assert first == set(range(8))


@given(st.integers(2, 12) | st.just(limits.RECIPIENTS_MAX), st.data())
def test_all_leaves_together_open_each_recipient_at_its_place(count: int, data: st.DataObject) -> None:
    """What stands beside a shared body is the same audience as the openings, and opens for nobody else."""
    one = released(vehicle_alert(), audience=offices(count))
    root = decode_core_untrusted(one.core).audience_root
    office_id, opening = one.audience[data.draw(st.integers(0, count - 1))]
    salt, index = one.place_of(office_id)
    assert opening_among_untrusted(one.audience_leaves, office_id, salt, index) == opening
    check_audience_untrusted(root, office_id, opening)
    for wrong_id, wrong_salt, wrong_index in (
        (TENGCHONG.id, salt, index),
        (office_id, bytes(16), index),
        (office_id, salt, index ^ 1),
    ):
        found = refusal(opening_among_untrusted, one.audience_leaves, wrong_id, wrong_salt, wrong_index)
        assert found == "not_in_audience"


def test_a_draft_keeps_every_leaf_and_one_of_before_still_opens() -> None:
    """Released hours later it can go to all at once; a draft of a version without leaves goes one by one."""
    prepared = prepare(
        victim_alert(), author=MYITKYINA.officer(1), audience=offices(3), random=counting_random("kept")
    )
    assert prepared_from_bytes(prepared.to_bytes()) == prepared
    fields = wire.decode_untrusted(prepared.to_bytes(), bytes_max=2**20)
    assert isinstance(fields, dict)
    leaves = fields.pop("leaves")
    assert prepared_from_bytes(wire.encode(fields)).audience_leaves == ()
    assert isinstance(leaves, bytes)
    with pytest.raises(BrokenInvariant, match="prepared_alert"):
        prepared_from_bytes(wire.encode({**fields, "leaves": bytes(32) + leaves[32:]}))


@pytest.mark.parametrize(
    ("recipients", "asked", "mode"),
    [
        (1, None, "separate"),
        (1, "shared", "separate"),
        (8, None, "separate"),
        (9, None, "shared"),
        (9, "separate", "separate"),
        (2, "shared", "shared"),
    ],
)
def test_how_an_alert_goes_to_several(recipients: int, asked: Mode | None, mode: Mode) -> None:
    """By their number, unless the officer says; what needs two officers is never shared."""
    assert mode_for(vehicle_alert(), recipients, asked) == mode
    assert refusal(mode_for, victim_alert(), recipients, "shared") == "shared_sensitive"
    assert mode_for(victim_alert(), recipients, None) == "separate"


def test_a_released_alert_reaches_only_its_audience() -> None:
    """The node cannot redirect it: no opening exists for another office, and another's does not fit."""
    one = released(vehicle_alert())
    assert refusal(one.opening_for, MAE_SAI.id) == "not_in_audience"
    assert refusal(check, one, recipient=MAE_SAI.id) == "not_in_audience"
    assert refusal(check, one, opening=None) == "audience_opening_missing"


@given(st.binary(max_size=18 + 9 * 32))
def test_any_opening_is_malformed_or_leads_nowhere(opening: bytes) -> None:
    """Whatever rides beside an alert, the check ends in one of two refusals."""
    with contextlib.suppress(MalformedInput):
        assert refusal(check_audience_untrusted, bytes(32), TENGCHONG.id, opening) == "not_in_audience"


@pytest.mark.parametrize(
    "opening", [b"", bytes(17), bytes(19), bytes(18 + 31), bytes(18 + 9 * 32), bytes(16) + b"\x00\x01"]
)
def test_an_opening_has_a_possible_form(opening: bytes) -> None:
    """Too short, too deep, or a place outside its tree."""
    with pytest.raises(MalformedInput, match="audience_opening"):
        check_audience_untrusted(bytes(32), TENGCHONG.id, opening)


@pytest.mark.parametrize(
    ("audience", "code"),
    [
        ([], "audience_empty"),
        ([TENGCHONG.id, TENGCHONG.id], "audience_repeated"),
        ([n.to_bytes(32, "big") for n in range(257)], "audience_too_large"),
    ],
)
def test_an_audience_is_some_offices_each_once(audience: list[bytes], code: str) -> None:
    """Nobody, twice and too many are refused before anything is signed."""
    assert refusal(released, vehicle_alert(), audience=audience) == code


# --- what may be sent at all ---


def test_a_crime_nobody_listed_is_not_sent() -> None:
    """Purpose lock: the list is closed for what leaves; a newer peer's code can still be read."""
    alert = vehicle_alert(crime_type="political_activity")
    assert refusal(released, alert) == "crime_type_unknown"


def test_an_expired_alert_is_not_released() -> None:
    """A draft that waited too long is written again, not sent stale."""
    prepared = prepare(
        vehicle_alert(), author=MYITKYINA.officer(1), audience=[TENGCHONG.id], random=counting_random("x")
    )
    expires_ms = vehicle_alert().expires_ms
    release_prepared(prepared, policy=POLICY, now_ms=expires_ms - 1)
    assert refusal(release_prepared, prepared, policy=POLICY, now_ms=expires_ms) == "alert_expired"


def test_only_release_makes_a_released_alert() -> None:
    """What was never released cannot be sealed: the type cannot be made elsewhere."""
    one = released(vehicle_alert())
    with pytest.raises(BrokenInvariant, match="not_released"):
        replace(one, maker=None)
    with pytest.raises(BrokenInvariant, match="not_released"):
        ReleasedAlert(
            alert_id=bytes(32),
            core=b"",
            disclosures=b"",
            audience=(),
            audience_leaves=(),
            created_ms=0,
            expires_ms=1,
            erase_at_ms=1,
            is_emergency=False,
            maker=object(),
        )


def test_the_alert_id_is_the_hash_of_what_was_released() -> None:
    """All recipients, receipts and screens name the alert by its signed core."""
    one = released(vehicle_alert(), audience=[TENGCHONG.id, MAE_SAI.id])
    assert one.alert_id == alert_id(one.core)


# --- author now, releaser later ---


def waiting(alert: Alert) -> bytes:
    prepared = prepare(
        alert, author=MYITKYINA.officer(1), audience=[TENGCHONG.id, MAE_SAI.id], random=counting_random("x")
    )
    return prepared.to_bytes()


def test_a_prepared_alert_survives_a_restart_unchanged() -> None:
    """What the releaser is shown hours later is what the author signed, and both signatures hold."""
    prepared = prepared_from_bytes(waiting(victim_alert()))
    assert prepared.alert == victim_alert()
    assert prepared.author.officer_number == 1
    one = release_prepared(prepared, policy=POLICY, now_ms=NOW_MS, releaser=MYITKYINA.officer(3))
    assert check(one) is False


@given(st.data())
def test_a_prepared_alert_changed_in_the_database_is_noticed(data: st.DataObject) -> None:
    """One changed byte is our own storage's fault, or its signature fails at the recipient: never passes."""
    stored = bytearray(waiting(victim_alert()))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))

    def release_and_check() -> None:
        prepared = prepared_from_bytes(bytes(stored))
        check(release_prepared(prepared, policy=POLICY, now_ms=NOW_MS, releaser=MYITKYINA.officer(3)))

    with pytest.raises((BrokenInvariant, VerificationFailed, Unavailable)):
        release_and_check()


def test_a_stored_alert_that_was_already_released_is_not_released_again() -> None:
    """Only an author's signature waits."""
    prepared = prepared_from_bytes(waiting(victim_alert()))
    twice = replace(prepared, core=replace(prepared.core, signatures=()))
    with pytest.raises(BrokenInvariant, match="prepared_alert"):
        prepared_from_bytes(twice.to_bytes())


def test_the_draft_digest_names_content_and_recipients() -> None:
    """What was on the screen when it was confirmed is what is signed: any other draft has another digest."""
    shown = draft_digest(vehicle_alert(), [TENGCHONG.id, MAE_SAI.id])
    assert shown == draft_digest(vehicle_alert(), [MAE_SAI.id, TENGCHONG.id])
    assert shown != draft_digest(vehicle_alert(), [TENGCHONG.id])
    assert shown != draft_digest(vehicle_alert(tlp="green"), [TENGCHONG.id, MAE_SAI.id])


def test_an_officers_key_does_not_show_itself() -> None:
    """A signer in a log line or an error is a number, not a key."""
    assert "key" not in repr(MYITKYINA.officer(1))
