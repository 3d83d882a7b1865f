"""Core and disclosures: split, joined, erased in part, and faked in every way a peer could."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import labels
from keys.errors import BrokenInvariant, MalformedInput, VerificationFailed
from keys.primitives import labelled_hash
from protocol import limits, wire
from protocol.alert import Alert, Person, Vehicle
from protocol.disclosures import (
    AlertCore,
    Disclosure,
    OfficerSignature,
    alert_id,
    decode_core_untrusted,
    decode_disclosures_untrusted,
    encode_disclosures,
    join_alert,
    join_redacted,
    split_alert,
)
from tests.protocol.offices import NOW_MS, counting_random, vehicle_alert, victim_alert

ROOT = b"\x07" * 32

SIGNATURE = OfficerSignature(role="author", officer_number=1, list_version=1, signature=bytes(64))


def halves(alert: Alert) -> tuple[AlertCore, tuple[Disclosure, ...]]:
    return split_alert(alert, audience_root=ROOT, random=counting_random("split"))


plain = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
vehicles = st.fixed_dictionaries(
    {"plate": plain}, optional={"make": plain, "vin": plain, "seen_where": plain, "description": plain}
).map(Vehicle.model_validate)
persons = st.fixed_dictionaries(
    {"role": st.sampled_from(["victim", "suspect", "driver"])}, optional={"name": plain, "phone": plain}
).map(Person.model_validate)
alerts = st.fixed_dictionaries(
    {"entities": st.lists(vehicles | persons, min_size=1, max_size=limits.ENTITIES_MAX).map(tuple)},
    optional={
        "urgency_reason": plain,
        "handling_text": plain,
        "text": st.fixed_dictionaries({"language": st.sampled_from(["en", "my"]), "text": plain}),
        "references": st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=4, unique=True),
    },
).map(lambda changes: vehicle_alert(**changes))


# --- two halves of one alert ---


@given(alerts)
def test_an_alert_split_and_joined_is_the_same_alert(alert: Alert) -> None:
    """Through core and disclosures and their bytes, nothing is added, lost or reordered."""
    core, disclosures = halves(alert)
    core_again = decode_core_untrusted(core.encode())
    disclosures_again = decode_disclosures_untrusted(encode_disclosures(disclosures))
    assert (core_again, disclosures_again) == (core, disclosures)
    assert join_alert(core_again, disclosures_again) == alert


def test_an_alert_that_asks_for_no_answer_has_the_bytes_it_always_had() -> None:
    """The field is in the core only when somebody asked, so every alert signed before it keeps its id."""
    plain, asking = vehicle_alert(), vehicle_alert(reply_by_ms=vehicle_alert().expires_ms)
    assert b"reply_by_ms" not in halves(plain)[0].encode()
    core, disclosures = halves(asking)
    again = decode_core_untrusted(core.encode())
    assert again == core
    assert join_alert(again, disclosures).reply_by_ms == asking.expires_ms
    assert not again.later


def test_the_core_holds_no_text_and_no_name() -> None:
    """Everything that may have to be erased stands beside the core, salted; codes and times stand in it."""
    alert = victim_alert(handling_text="none of it")
    core, disclosures = halves(alert)
    for secret in ("Person One", "about 2009", "victim", "old bridge", "tonight", "none of it"):
        assert secret.encode() not in core.encode()
        assert secret.encode() in encode_disclosures(disclosures)
    assert b"human_trafficking" in core.encode()


def test_every_disclosure_has_a_salt_of_its_own() -> None:
    """Equal values have unequal digests, so a digest cannot be guessed from another."""
    twins = [{"entity": "person", "role": "driver", "sex": "male"}] * 2
    core, disclosures = halves(vehicle_alert(entities=twins))
    assert len({disclosure.salt for disclosure in disclosures}) == len(disclosures) == len(core.digests)


def test_the_digest_is_the_one_of_the_spec() -> None:
    """H(label, salt, path, value), so an auditor can open one value alone."""
    disclosure = Disclosure(path="e0/plate", salt=bytes(16), value="5C-1234")
    assert disclosure.digest == labelled_hash(b"salween/v1/disclosure", bytes(16), b"e0/plate", b"5C-1234")
    assert alert_id(b"core") == labelled_hash(labels.CORE, b"core")


def test_a_salt_that_repeats_is_our_own_bug() -> None:
    """A broken source of randomness is noticed before anything is signed."""
    with pytest.raises(BrokenInvariant, match="salt_repeated"):
        split_alert(vehicle_alert(), audience_root=ROOT, random=bytes)


def test_officers_sign_the_core_as_it_was_before_anyone_signed() -> None:
    """The id under the signatures does not depend on them; the alert id does."""
    core, _ = halves(vehicle_alert())
    signed = replace(core, signatures=(SIGNATURE,))
    assert signed.unsigned_id == core.unsigned_id
    assert alert_id(signed.encode()) != alert_id(core.encode())
    assert replace(core, audience_root=bytes(32)).unsigned_id != core.unsigned_id


# --- erasure ---


@given(alerts, st.data())
def test_erasing_values_keeps_the_identity_and_the_rest(alert: Alert, data: st.DataObject) -> None:
    """Whatever subset is left still verifies under the same core; what is gone is counted, not named."""
    core, disclosures = halves(alert)
    kept = data.draw(st.sets(st.sampled_from(disclosures))) if disclosures else set()
    left = join_redacted(core, [d for d in disclosures if d in kept])
    assert left.values == {d.path: d.value for d in kept}
    assert left.missing == len(disclosures) - len(kept)
    if left.missing:
        with pytest.raises(VerificationFailed, match="disclosure_missing"):
            join_alert(core, [d for d in disclosures if d in kept])


def test_an_erased_name_leaves_no_trace_in_what_is_kept() -> None:
    """After dropping one disclosure neither value nor salt is in the bytes; the core is unchanged."""
    core, disclosures = halves(victim_alert())
    left = [d for d in disclosures if d.path != "e0/name"]
    kept = core.encode() + encode_disclosures(left)
    assert b"Person One" not in kept
    assert next(d.salt for d in disclosures if d.path == "e0/name") not in kept
    assert join_redacted(core, left).missing == 1


# --- what does not belong together ---


def test_a_value_nobody_signed_is_refused() -> None:
    """A changed value, a changed salt, a moved path or one more value matches no digest."""
    core, disclosures = halves(vehicle_alert())
    plate = next(d for d in disclosures if d.path == "e0/plate")
    others = [d for d in disclosures if d is not plate]
    for changed in (
        replace(plate, value="5C-1235"),
        replace(plate, salt=bytes(16)),
        replace(plate, path="e0/vin"),
    ):
        with pytest.raises(VerificationFailed, match="disclosure_unsigned"):
            join_alert(core, [*others, changed])
    with pytest.raises(VerificationFailed, match="disclosure_unsigned"):
        join_alert(core, [*disclosures, Disclosure(path="e0/year", salt=bytes(16), value="1999")])
    with pytest.raises(VerificationFailed, match="disclosure_unsigned"):
        join_alert(core, [*disclosures, plate])


def signed_over(values: dict[str, str], **codes: str) -> tuple[AlertCore, list[Disclosure]]:
    """A core whose digests really are those of ``values``, however wrong these are."""
    core, _ = halves(vehicle_alert())
    disclosures = [
        Disclosure(path=path, salt=bytes([n]) * 16, value=value)
        for n, (path, value) in enumerate(values.items())
    ]
    digests = tuple(sorted(d.digest for d in disclosures))
    return replace(core, digests=digests, codes={**core.codes, **codes}), disclosures


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({"e0/entity": "vehicle", "e0/plate": "1\u202e2"}, {}),
        ({"e0/entity": "person", "e0/name": "Person One"}, {}),
        ({"e0/entity": "consignment", "e0/weight": "1"}, {}),
        ({"e0/plate": "1"}, {}),
        ({"e1/entity": "vehicle", "e1/plate": "1"}, {}),
        ({"e0/entity": "vehicle", "e0/plate": "1", "e0/toyota": "toyota"}, {}),
        ({"text/text": "without a language"}, {}),
        ({"text/text": "a", "text/language": "en", "text/author": "nobody"}, {}),
        ({"text/text": "a", "text/language": "en", "tlp": "clear"}, {}),
        ({"text/text": "a", "text/language": "en", "created_ms": "1"}, {}),
        ({"text/text": "a", "text/language": "en"}, {"urgency": "immediate"}),
        ({"text/text": "a", "text/language": "en"}, {"severity": "dire"}),
        ({"text/text": "a", "text/language": "en"}, {"kind": "cancel"}),
        ({}, {}),
    ],
)
def test_a_signed_but_invalid_alert_is_refused_and_names_no_content(
    values: dict[str, str], codes: dict[str, str]
) -> None:
    """A peer's signature does not excuse a rule: what an officer could not type here is not shown here."""
    core, disclosures = signed_over(values, **codes)
    with pytest.raises(MalformedInput) as caught:
        join_alert(core, disclosures)
    assert caught.value.code == "alert_invalid"
    content = set(values.values()) - {"vehicle", "person", "a", "1", "en"}
    assert not any(value in caught.value.detail for value in content)


def test_a_remnant_is_still_text() -> None:
    """After erasure no whole alert can be checked, but each value left is."""
    core, disclosures = signed_over({"e0/plate": "1\u202e2"})
    with pytest.raises(MalformedInput, match="alert_invalid"):
        join_redacted(core, disclosures)


# --- hostile cores ---


def core_fields() -> dict[str, Any]:
    core, _ = halves(vehicle_alert(references=["ab" * 32]))
    value = wire.decode_untrusted(replace(core, signatures=(SIGNATURE,)).encode(), bytes_max=60_000)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("field", sorted(core_fields()))
def test_no_field_of_a_core_may_be_missing_or_of_another_type(field: str) -> None:
    """The core has one form: a field left out, or true, or a list of nothing is refused."""
    fields = core_fields()
    given_value = fields.pop(field)
    for wrong in (True, None, -1, [b""], "no", b"no"):
        if isinstance(given_value, str) and isinstance(wrong, str):
            continue
        with pytest.raises(MalformedInput):
            decode_core_untrusted(wire.encode({**fields, field: wrong}))
    with pytest.raises(MalformedInput, match="field_missing"):
        decode_core_untrusted(wire.encode(fields))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"v": 2}, "field_range"),
        ({"salt": bytes(31)}, "field_range"),
        ({"created_ms": limits.TIME_MS_MAX + 1}, "field_range"),
        ({"digests": bytes(33)}, "core_digests"),
        ({"digests": bytes(64)}, "core_digests"),
        ({"digests": b"\x02" * 32 + b"\x01" * 32}, "core_digests"),
        ({"digests": bytes(32 * (limits.DISCLOSURES_MAX + 1))}, "field_range"),
        ({"references": [bytes(31)]}, "field_type"),
        ({"references": ["a"]}, "field_type"),
        ({"references": [bytes(32)] * (limits.REFERENCES_MAX + 1)}, "field_range"),
        ({"signatures": [1]}, "field_type"),
        ({"signatures": [{}]}, "field_missing"),
        ({"signatures": [{"role": "editor"}]}, "core_signature_role"),
        (
            {"signatures": [{"role": "author", "officer": 0, "list": 1, "sig": bytes(64)}]},
            "field_range",
        ),
        (
            {"signatures": [{"role": "author", "officer": 1, "list": 1, "sig": bytes(63)}]},
            "field_range",
        ),
        (
            {"signatures": [{"role": "author", "officer": 1, "list": 1, "sig": bytes(64), "x": 1}]},
            "field_unknown",
        ),
        (
            {"signatures": [{"role": "emergency", "officer": 1, "list": 1, "sig": bytes(64)}]},
            "field_missing",
        ),
        (
            {
                "signatures": [
                    {"role": "emergency", "officer": 1, "list": 1, "sig": bytes(64), "reason": "\u202e"}
                ]
            },
            "emergency_reason",
        ),
        ({"tlp": "x" * 49}, "field_range"),
        ({"!must": 1}, "core_critical"),
    ],
)
def test_each_fault_of_a_core_has_its_code(changes: dict[str, Any], code: str) -> None:
    """Counts, sizes, order and roles are checked before anything is compared."""
    with pytest.raises(MalformedInput) as caught:
        decode_core_untrusted(wire.encode({**core_fields(), **changes}))
    assert caught.value.code == code


def test_a_field_of_a_later_version_is_kept_and_counted_in_the_hash() -> None:
    """An older office can read, store and verify what a newer one added, unless it is marked critical."""
    encoded = wire.encode({**core_fields(), "review": {"by": 1}})
    core = decode_core_untrusted(encoded)
    assert core.later == {"review": {"by": 1}}
    assert core.encode() == encoded
    assert core.unsigned_id != replace(core, later={}).unsigned_id


@given(st.binary(max_size=300))
def test_any_bytes_are_a_core_or_malformed_input(data: bytes) -> None:
    """Whatever a peer signs, the decoder returns a core that encodes back, or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert decode_core_untrusted(data).encode() == data


@given(st.data())
def test_a_core_with_one_changed_byte_is_another_core_or_malformed(data: st.DataObject) -> None:
    """No byte of a core is without meaning."""
    encoded = bytearray(wire.encode(core_fields()))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedInput):
        assert decode_core_untrusted(bytes(encoded)).encode() == bytes(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_disclosures_or_malformed_input(data: bytes) -> None:
    """Whatever stands beside a core, the decoder returns disclosures that encode back, or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert encode_disclosures(decode_disclosures_untrusted(data)) == data


@pytest.mark.parametrize(
    "value",
    [
        {},
        [1],
        [["e0/plate", bytes(16)]],
        [["e0/plate", bytes(15), "1"]],
        [["e0/plate", bytes(16), b"1"]],
        [["e0/plate", bytes(16), "1", "2"]],
        [[1, bytes(16), "1"]],
        [["", bytes(16), "1"]],
        [["e16/plate", bytes(16), "1"]],
        [["e00/plate", bytes(16), "1"]],
        [["../plate", bytes(16), "1"]],
        [["e0/plate\n", bytes(16), "1"]],
        [["e0/Plate", bytes(16), "1"]],
        [["e0/" + "a" * limits.PATH_BYTES_MAX, bytes(16), "1"]],
        [["e0/plate", bytes(16), "1"], ["e0/plate", bytes(16), "2"]],
        [["e0/vin", bytes(16), "1"], ["e0/plate", bytes(16), "2"]],
        [
            [f"e0/a{chr(97 + n // 26)}{chr(97 + n % 26)}", bytes(16), "1"]
            for n in range(limits.DISCLOSURES_MAX + 1)
        ],
    ],
)
def test_disclosures_have_one_form(value: Any) -> None:
    """Three parts, a known form of path, each path once and in order, a bounded number."""
    with pytest.raises(MalformedInput, match="disclosures"):
        decode_disclosures_untrusted(wire.encode(value))


def test_the_times_of_an_alert_stand_in_the_core() -> None:
    """Retention must be decided without the content."""
    core, _ = halves(vehicle_alert())
    assert (core.created_ms, core.expires_ms) == (NOW_MS, NOW_MS + 7 * limits.DAY_MS)
    assert core.erase_at_ms == NOW_MS + 14 * limits.DAY_MS


def test_a_value_under_two_digests_is_refused_before_it_is_joined() -> None:
    """Digests are unequal by their order, so a disclosure can match only one."""
    core, _ = halves(vehicle_alert())
    with pytest.raises(MalformedInput, match="core_digests"):
        decode_core_untrusted(replace(core, digests=(core.digests[0],) * 2).encode())
