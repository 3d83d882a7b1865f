"""Items ride beside alerts: one encoding each, unknown ones kept, unknown critical ones refused."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keys.errors import MalformedInput
from protocol import limits, wire
from protocol.items import (
    Acknowledgement,
    AudienceOpening,
    CardItem,
    HeartBeat,
    Item,
    KeyAnnouncement,
    MailboxSuccessor,
    OfficerListItem,
    OneTimeOffer,
    OneTimeUnused,
    PairOkItem,
    ReceivedRange,
    RevocationItem,
    UnknownItem,
    UnknownKeyNotice,
    bitmap_from_bytes,
    bitmap_to_bytes,
    decode_items_untrusted,
    encode_items,
    is_service,
)

numbers = st.integers(0, limits.PAIR_SEQ_MAX)
versions = st.integers(0, limits.U32_MAX)
bitmaps = st.integers(0, 2 ** (limits.WINDOW_MESSAGES - 1) - 1).map(lambda bits: bits << 1)
ranges = st.builds(
    ReceivedRange,
    instance=st.binary(min_size=8, max_size=8),
    contiguous_to=numbers,
    bitmap=bitmaps,
)
signed = st.binary(max_size=200)
key_ids = st.lists(st.binary(min_size=8, max_size=8), unique=True, max_size=8)
items: st.SearchStrategy[Item] = st.one_of(
    st.builds(
        KeyAnnouncement,
        key_version=versions,
        rk_gen=versions,
        key_id=st.binary(min_size=8, max_size=8),
        public=st.binary(min_size=1, max_size=1).map(lambda b: b * limits.XWING_PUBLIC_BYTES),
    ),
    st.builds(
        lambda version, generation, ids, cut: OneTimeOffer(
            key_version=version,
            generation=generation,
            kept_ids=tuple(ids[cut:]),
            fresh=tuple((key_id, key_id * (limits.XWING_PUBLIC_BYTES // 8)) for key_id in ids[:cut]),
        ),
        versions,
        versions,
        key_ids.filter(bool),
        st.integers(1, 3),
    ),
    st.builds(OneTimeUnused, generation=versions, unused_ids=key_ids.map(tuple)),
    st.builds(
        Acknowledgement,
        key_version=versions,
        instance=st.binary(min_size=8, max_size=8),
        ranges=st.lists(ranges, max_size=3, unique_by=lambda r: r.instance).map(tuple),
    ),
    st.builds(OfficerListItem, officer_list=signed),
    st.builds(
        MailboxSuccessor,
        generation=versions,
        put_secret=st.binary(min_size=32, max_size=32),
        mailbox_public=st.binary(min_size=32, max_size=32),
        broker_address=st.text(max_size=100),
    ),
    st.builds(AudienceOpening, opening=signed),
    st.builds(HeartBeat, highest_seq=numbers, at_ms=st.integers(0, limits.TIME_MS_MAX)),
    st.builds(CardItem, certificate=signed),
    st.builds(RevocationItem, revocation=signed),
    st.builds(PairOkItem, pair_ok=signed),
    st.builds(
        UnknownKeyNotice,
        envelope_hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=32).map(tuple),
    ),
)


@given(st.lists(items, max_size=8))
def test_items_come_back_as_they_were_listed(listed: list[Item]) -> None:
    """Every item survives encoding, in order, and its bytes are the only ones that mean it."""
    data = encode_items(listed)
    decoded = decode_items_untrusted(data)
    assert decoded == tuple(listed)
    assert encode_items(decoded) == data


@given(st.binary(max_size=300))
@example(wire.encode([]))
@example(wire.encode([{"k": "ack"}]))
@example(wire.encode([{"k": ""}]))
def test_hostile_items_are_malformed_or_canonical(data: bytes) -> None:
    """Whatever a peer signs, the decoder returns items or MalformedInput, and what it takes is canonical."""
    with contextlib.suppress(MalformedInput):
        assert encode_items(decode_items_untrusted(data)) == data


@given(st.lists(items, min_size=1, max_size=3), st.data())
def test_a_changed_byte_never_raises_anything_but_malformed(listed: list[Item], draw: st.DataObject) -> None:
    """One flipped bit in a real list gives other items or MalformedInput."""
    data = bytearray(encode_items(listed))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= 1 << draw.draw(st.integers(0, 7))
    with contextlib.suppress(MalformedInput):
        assert encode_items(decode_items_untrusted(bytes(data))) == bytes(data)


def test_an_item_of_a_later_version_is_kept_and_passed_on() -> None:
    """A tag nobody knows yet is kept whole, so that the same bytes can be written again."""
    data = wire.encode([{"k": "later", "x": [1, {"deep": b"kept"}]}])
    (item,) = decode_items_untrusted(data)
    assert isinstance(item, UnknownItem)
    assert item.k == "later"
    assert encode_items([item]) == data


def test_a_critical_item_of_a_later_version_refuses_the_list() -> None:
    """A tag beginning with an exclamation mark says: do not act on the rest without understanding me."""
    with pytest.raises(MalformedInput) as refused:
        decode_items_untrusted(wire.encode([{"k": "hb", "h": 1, "t": 1}, {"k": "!embargo"}]))
    assert refused.value.code == "critical_item_unknown"


def an_offer(**changed: wire.Value) -> dict[str, wire.Value]:
    """Two fresh keys and a kept one, with one fault."""
    return {
        "k": "otk",
        "v": 1,
        "g": 1,
        "o": b"kept   1",
        "i": b"fresh  1fresh  2",
        "p": bytes(2 * limits.XWING_PUBLIC_BYTES),
        **changed,
    }


def test_a_one_time_offer_is_these_bytes() -> None:
    """The wire form of the specification, byte for byte."""
    public = bytes(limits.XWING_PUBLIC_BYTES)
    offer = OneTimeOffer(key_version=2, generation=3, kept_ids=(b"kept   1",), fresh=((b"fresh  1", public),))
    unused = OneTimeUnused(generation=3, unused_ids=(b"kept   1",))
    head = bytes.fromhex("9286a16703a169c408") + b"fresh  1"
    assert encode_items([offer, unused]) == (
        head
        + bytes.fromhex("a16ba36f746ba16fc408")
        + b"kept   1"
        + bytes.fromhex("a170c504c0")
        + public
        + bytes.fromhex("a1760283a16703a16ba36f7475a16fc408")
        + b"kept   1"
    )


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"k": "hb"}, "items_wrong"),
        ([{"k": "hb", "h": 1}], "field_missing"),
        ([{"k": "hb", "h": 1, "t": 1, "z": 0}], "field_unknown"),
        ([{"k": "hb", "h": True, "t": 1}], "field_type"),
        ([{"k": "hb", "h": -1, "t": 1}], "field_range"),
        ([{"h": 1, "t": 1}], "field_missing"),
        ([{"k": "!"}], "item_wrong"),
        ([{"k": "nokey", "h": [b"short"]}], "item_wrong"),
        ([{"k": "nokey", "h": [bytes(32)] * 33}], "field_range"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 0, b"\x01"]]}], "bitmap_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 0, b"\x02\x00"]]}], "bitmap_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 0, b"\x02" * 513]]}], "bitmap_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 0, b""]] * 2}], "range_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(7), 0, b""]]}], "range_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 2**63, b""]]}], "range_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), True, b""]]}], "range_wrong"),
        ([{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes(8), 0]]}], "range_wrong"),
        (
            [{"k": "ack", "v": 1, "i": bytes(8), "r": [[bytes([n]) * 8, 0, b""] for n in range(9)]}],
            "range_wrong",
        ),
        ([{"k": "hb", "h": 1, "t": 1}] * 65, "items_wrong"),
        ([an_offer(p=bytes(1216))], "item_wrong"),
        ([an_offer(p=bytes(2 * 1216 - 1))], "item_wrong"),
        ([an_offer(i=b"", p=b"")], "item_wrong"),
        ([an_offer(i=bytes(8) * 2)], "item_wrong"),
        ([an_offer(o=b"fresh  1")], "item_wrong"),
        ([an_offer(o=bytes(7))], "item_wrong"),
        ([an_offer(o=b"".join(n.to_bytes(8, "big") for n in range(63)))], "item_wrong"),
        ([an_offer(o=bytes(8 * 65))], "field_range"),
        ([an_offer(g=2**32)], "field_range"),
        ([{"k": "otu", "g": 1, "o": b"unused 1" * 2}], "item_wrong"),
        ([{"k": "otu", "g": 1, "o": bytes(9)}], "item_wrong"),
        ([{"k": "otu", "g": 1}], "field_missing"),
    ],
)
def test_each_fault_has_its_code(value: wire.Value, code: str) -> None:
    """One fault per vector, one code per fault."""
    with pytest.raises(MalformedInput) as refused:
        decode_items_untrusted(wire.encode(value))
    assert refused.value.code == code


@given(bitmaps)
def test_a_bitmap_has_one_encoding(bitmap: int) -> None:
    """Bytes and integer name the same window, at most 512 bytes long."""
    data = bitmap_to_bytes(bitmap)
    assert len(data) <= limits.WINDOW_MESSAGES // 8
    assert bitmap_from_bytes(data) == bitmap


def test_only_acknowledgements_heartbeats_and_witness_items_are_service() -> None:
    """A body is service when all of it is; one real item makes the whole a reason to acknowledge."""
    ack = Acknowledgement(key_version=1, instance=bytes(8), ranges=())
    beat = HeartBeat(highest_seq=1, at_ms=1)
    (witness,) = decode_items_untrusted(wire.encode([{"k": "wit/req", "b": b"checkpoint"}]))
    card = CardItem(certificate=b"")
    assert is_service([])
    assert is_service([ack, beat, witness])
    assert not is_service([ack, card])


def test_a_put_secret_is_not_shown() -> None:
    """Whoever prints a list of items prints no capability."""
    item = MailboxSuccessor(
        generation=1, put_secret=b"S" * 32, mailbox_public=bytes(32), broker_address="salween://h:1#x"
    )
    assert "SSSS" not in repr(item)
