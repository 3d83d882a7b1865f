"""Frames of a file: any order, any loss, any number of times; altered, foreign and mixed ones are told."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput
from protocol import limits
from protocol.envelope import BUCKETS
from protocol.frames import FRAME_HEAD_BYTES, PART_BYTES, ROOM_BYTES, encode_frames, join_frames_untrusted
from protocol.stick import RECORD_HEAD_BYTES, StickReader, encode_stick

FILE = encode_stick([b"\1" + bytes(range(256)) * 31 + bytes(255)])
FRAMES = encode_frames(FILE)
OTHERS = encode_frames(encode_stick([b"\1" + b"other" * 1638 + b"!"]))


def test_the_largest_file_is_two_small_envelopes_or_one_of_the_next_size() -> None:
    """As the spec says; one more is our own mistake."""
    for sizes in ([BUCKETS[0], BUCKETS[0]], [BUCKETS[1]]):
        assert sum(RECORD_HEAD_BYTES + size for size in sizes) <= ROOM_BYTES
        frames = encode_frames(encode_stick([bytes(size) for size in sizes]))
        assert len(frames) <= limits.FRAMES_MAX
        assert {len(frame) for frame in frames[:-1]} == {limits.FRAME_BYTES_MAX}
    for sizes in ([BUCKETS[0]] * 3, [BUCKETS[2]]):
        with pytest.raises(BrokenInvariant, match="frames_size"):
            encode_frames(encode_stick([bytes(size) for size in sizes]))


def test_a_frame_stands_in_the_bytes_of_the_spec() -> None:
    """Magic word, format, check, the first of the closing hash, number, count, part."""
    for number, frame in enumerate(FRAMES):
        assert frame[:5] == b"SLWF\1"
        assert frame[9:17] == FILE[-32:-24]
        assert (frame[17], frame[18]) == (number, len(FRAMES))
        assert frame[FRAME_HEAD_BYTES:] == FILE[number * PART_BYTES :][:PART_BYTES]


@given(st.lists(st.sampled_from(FRAMES), max_size=40), st.permutations(FRAMES))
def test_any_order_and_any_number_of_times_is_the_same_file(
    some: list[bytes], all_of_them: list[bytes]
) -> None:
    """Whatever a camera saw before it had seen them all."""
    assert join_frames_untrusted([*some, *all_of_them]) == FILE


@given(st.sets(st.sampled_from(range(len(FRAMES))), min_size=1, max_size=len(FRAMES) - 1))
def test_any_loss_is_told_and_nothing_is_made_of_the_rest(lost: set[int]) -> None:
    """B86 of pictures: as many as were lost are named."""
    with pytest.raises(MalformedInput, match=f"frames_missing.*{len(lost)} of {len(FRAMES)}"):
        join_frames_untrusted(frame for number, frame in enumerate(FRAMES) if number not in lost)


@given(st.sampled_from(range(len(FRAMES))), st.data())
def test_a_flipped_bit_makes_a_frame_that_was_not_read(number: int, data: st.DataObject) -> None:
    """B87 of pictures: wherever it is; read once more and well, the file is whole."""
    frame = bytearray(FRAMES[number])
    at = data.draw(st.integers(5, len(frame) - 1))  # magic word and format are refused by themselves
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    altered = [*FRAMES[:number], bytes(frame), *FRAMES[number + 1 :]]
    with pytest.raises(MalformedInput, match="frames_missing"):
        join_frames_untrusted(altered)
    assert join_frames_untrusted([*altered, FRAMES[number]]) == FILE


def test_what_is_no_frame_is_passed_over() -> None:
    """A poster on the wall, a meeting code, too many bytes: as if the camera had seen nothing."""
    strange = [b"", b"https://example.org", b"SLWM\1 a meeting code", b"SLWF", b"SLWF\1" + bytes(500)]
    assert join_frames_untrusted([*strange, *FRAMES]) == FILE
    with pytest.raises(MalformedInput, match="frame_foreign"):
        join_frames_untrusted(strange)
    with pytest.raises(MalformedInput, match="frame_version"):
        join_frames_untrusted([*FRAMES, b"SLWF\2" + bytes(20)])


def test_frames_of_two_files_are_never_put_together() -> None:
    """B90 of pictures: also when every number is there."""
    with pytest.raises(MalformedInput, match="frames_mixed"):
        join_frames_untrusted([*FRAMES[:4], *OTHERS[4:]])


def forged(frame: bytes, *, at: int, value: int) -> bytes:
    """This frame with another byte and a check that holds, as somebody makes it who knows the spec."""
    bad = bytearray(frame)
    bad[at] = value
    return bytes(bad[:5]) + frame_check(bytes(bad[9:])) + bytes(bad[9:])


def frame_check(rest: bytes) -> bytes:
    """The check as the spec has it, without our own code."""
    label = b"salween/v1/carried-frame"
    return hashlib.sha256(bytes([len(label)]) + label + struct.pack(">I", len(rest)) + rest).digest()[:4]


def test_what_was_forged_with_a_right_check_is_told() -> None:
    """Another number, another count, other bytes in the closing hash; of an envelope its own hash tells."""
    with pytest.raises(MalformedInput, match="frames_altered"):
        join_frames_untrusted([*FRAMES, forged(FRAMES[0], at=200, value=9)])
    with pytest.raises(MalformedInput, match="frames_mixed"):
        join_frames_untrusted([*FRAMES[1:], forged(FRAMES[0], at=18, value=1)])
    with pytest.raises(MalformedInput, match="frames_altered"):
        join_frames_untrusted([*FRAMES, forged(FRAMES[0], at=17, value=200)])
    with pytest.raises(MalformedInput, match="frames_altered"):
        join_frames_untrusted([forged(FRAMES[0], at=18, value=0)])
    # The closing hash begins in the last frame but one.
    at = len(FRAMES[-2]) - (32 - (len(FRAMES[-1]) - FRAME_HEAD_BYTES))
    bad = forged(FRAMES[-2], at=at, value=FRAMES[-2][at] ^ 1)
    with pytest.raises(MalformedInput, match="frames_altered"):
        join_frames_untrusted([*FRAMES[:-2], bad, FRAMES[-1]])
    reader = StickReader()
    joined = join_frames_untrusted([*FRAMES[:3], forged(FRAMES[3], at=100, value=0x55), *FRAMES[4:]])
    assert reader.feed(joined) == []
    assert reader.finish().damaged == 1


@given(
    st.lists(st.binary(max_size=430) | st.binary(max_size=40).map(lambda rest: b"SLWF\1" + rest), max_size=5)
)
def test_any_bytes_are_a_file_or_malformed_input(frames: list[bytes]) -> None:
    """Whatever a camera is shown."""
    checked = [frame[:5] + frame_check(frame[9:]) + frame[9:] for frame in frames if frame[:5] == b"SLWF\1"]
    for given_frames in (frames, checked):
        with pytest.raises(MalformedInput):
            join_frames_untrusted(given_frames)
