"""A photo beside an alert: sealed once, opened whole or not at all, named by a value that can be erased."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import blob_decrypt, labelled_hash, sha256
from keys.secret import SecretBytes
from protocol import limits, parts
from protocol.alert import Alert, Photo
from protocol.attachment import (
    Manifest,
    decode_manifest_untrusted,
    open_attachment_untrusted,
    seal_attachment,
    sealed_size_bytes,
)
from protocol.disclosures import (
    check_disclosures,
    decode_disclosures_untrusted,
    encode_disclosures,
    join_alert,
    join_redacted,
    split_alert,
)
from tests.keys.builders import drawn
from tests.protocol.offices import counting_random, vehicle_alert


def sealed(name: str = "photo", size: int = 1000) -> tuple[bytes, Manifest, bytes]:
    """A picture with its manifest and ciphertext, each name under its own key."""
    count = 0

    def random(length: int) -> bytes:
        nonlocal count
        count += 1
        return drawn(f"{name} {count}", length)

    picture = drawn(name, min(size, 64)) * (size // min(size, 64) + 1)
    manifest, ciphertext = seal_attachment(picture[:size], "jpeg", random)
    return picture[:size], manifest, ciphertext


def a_photo(name: str) -> Photo:
    """Manifests of a photo and its thumbnail."""
    return Photo(photo=sealed(name)[1].encode(), thumbnail=sealed(f"{name} thumbnail")[1].encode())


@pytest.mark.parametrize("size", [1, 60_000, 64 * 1024, limits.THUMBNAIL_BYTES_MAX, 2**20 - 700, 2**20])
def test_what_is_sealed_opens_to_itself_and_has_one_of_few_sizes(size: int) -> None:
    """Whatever its length, the ciphertext has a size of the list and at least one byte of padding."""
    picture, manifest, ciphertext = sealed(size=size)
    assert open_attachment_untrusted(manifest, ciphertext) == picture
    assert len(ciphertext) == manifest.size_bytes == sealed_size_bytes(size)
    assert len(ciphertext) in parts.SIZES


def test_the_sizes_are_quarter_octaves_from_64_kib_and_hold_the_largest_photo() -> None:
    """Each is at most a quarter larger than the one before, so a size costs at most a quarter."""
    assert parts.SIZES[0] == 64 * 1024
    assert all(b <= a * 1.25 for a, b in zip(parts.SIZES, parts.SIZES[1:], strict=False))
    assert sealed_size_bytes(limits.PHOTO_BYTES_MAX) == parts.SIZES[-1] == 28 * 2**20
    assert len(parts.SIZES) == 36


def test_size_or_hash_unlike_the_manifest_missing_doubled_swapped_or_foreign_parts_open_to_nothing() -> None:
    """B56: nothing is returned unless every byte is in its place and the manifest is of exactly these."""
    _, manifest, ciphertext = sealed(size=600_000)
    _, other_manifest, other = sealed("another", size=600_000)
    part = 16 * 1024 + 16
    first, rest = ciphertext[: 56 + part], ciphertext[56 + part :]
    wrong = {
        "cut": ciphertext[:-1],
        "a part missing": first + rest[part:],
        "a part doubled": first + rest[:part] + rest,
        "a part twice in place of the next": first + rest[:part] + rest[:part] + rest[2 * part :],
        "two parts swapped": first + rest[part : 2 * part] + rest[:part] + rest[2 * part :],
        "a foreign part": first + other[len(first) :],
        "of another alert": other,
        "one bit": ciphertext[:-9] + bytes([ciphertext[-9] ^ 1]) + ciphertext[-8:],
    }
    for about, bad in wrong.items():
        with pytest.raises(VerificationFailed, match=r"attachment_(size|hash)"):
            open_attachment_untrusted(manifest, bad)
        # And a sender who names the damaged bytes himself gets no further: every chunk is bound to its place.
        named = replace(manifest, ciphertext_sha256=sha256(bad))
        if len(bad) == len(ciphertext):
            with pytest.raises(VerificationFailed, match="blob_invalid"):
                open_attachment_untrusted(named, bad)
        assert about
    for changed, code in (
        (replace(manifest, length_bytes=manifest.length_bytes - 1), "attachment_padding"),
        (replace(manifest, plaintext_sha256=other_manifest.plaintext_sha256), "attachment_plaintext"),
        (replace(manifest, key=other_manifest.key), "blob_invalid"),
        (replace(manifest, length_bytes=2**21), "attachment_size"),
    ):
        with pytest.raises(VerificationFailed, match=code):
            open_attachment_untrusted(changed, ciphertext)


def test_a_photo_is_sealed_under_the_context_of_the_specification() -> None:
    """The library opens it under this very context, and the hashes are over what the page says."""
    picture, manifest, ciphertext = sealed()
    padded = blob_decrypt(SecretBytes(manifest.key), b"salween/v1/attachment", ciphertext)
    assert padded == picture + b"\x80" + bytes(len(padded) - len(picture) - 1)
    assert manifest.plaintext_sha256 == sha256(picture)
    assert parts.read_capability_hash(manifest.read_secret) == labelled_hash(
        b"salween/v1/read-capability", manifest.read_secret
    )


def test_a_manifest_has_one_encoding_and_is_short() -> None:
    """It reads back to itself; another spelling of the same bytes is refused."""
    _, manifest, _ = sealed()
    text = manifest.encode()
    assert decode_manifest_untrusted(text) == manifest
    assert len(text) <= limits.MANIFEST_BYTES_MAX
    for bad in (
        "",
        text + "=",
        text + "AA",
        text[:-1],
        text.replace("-", "+", 1) + " ",
        "é" + text,
        text * 3,
    ):
        with pytest.raises(MalformedInput):
            decode_manifest_untrusted(bad)


@given(st.text(max_size=400))
def test_no_text_is_a_manifest_by_accident(text: str) -> None:
    """Anything else is MalformedInput and nothing else."""
    with pytest.raises(MalformedInput):
        decode_manifest_untrusted(text)


def test_manifests_travel_as_disclosures_and_can_be_erased_like_any_other_value() -> None:
    """They are signed as digests; without them the rest of the alert still verifies."""
    fields = vehicle_alert().model_dump()
    alert = Alert.model_validate({**fields, "photos": [a_photo("one"), a_photo("two")]})
    core, disclosures = split_alert(alert, audience_root=bytes(32), random=counting_random("disclosures"))
    paths = [disclosure.path for disclosure in disclosures]
    assert {"p0/photo", "p0/thumbnail", "p1/photo", "p1/thumbnail"} <= set(paths)
    carried = decode_disclosures_untrusted(encode_disclosures(disclosures))
    assert join_alert(core, carried) == alert
    left = [disclosure for disclosure in carried if not disclosure.path.startswith("p")]
    assert check_disclosures(core, left) == 4
    assert not any(path.startswith("p0") for path in join_redacted(core, left).values)
    with pytest.raises(VerificationFailed, match="disclosure_missing"):
        join_alert(core, left)
    assert len(alert.manifests) == 4
    secrets = [manifest.key.hex() for manifest in alert.manifests]
    assert not any(secret in repr(alert) for secret in secrets)


def test_an_alert_refuses_a_photo_named_twice_too_many_and_a_thumbnail_that_is_none() -> None:
    """Each by its rule; no error repeats a manifest."""
    one = a_photo("one")
    large = sealed("large", size=limits.THUMBNAIL_BYTES_MAX + 1)[1].encode()
    for photos in (
        [one, one],
        [a_photo(str(n)) for n in range(limits.PHOTOS_PER_ALERT_MAX + 1)],
        [{"photo": one.photo, "thumbnail": large}],
        [{"photo": "AAAA", "thumbnail": one.thumbnail}],
        [{"photo": one.photo}],
    ):
        with pytest.raises(ValueError, match="photo") as refused:
            Alert.model_validate({**vehicle_alert().model_dump(), "photos": photos})
        assert one.photo not in str(refused.value)
