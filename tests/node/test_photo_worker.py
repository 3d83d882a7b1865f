"""The picture worker, as the daemon starts it: what it makes, what it refuses, and what ends it.

Every picture here goes through a process of its own, with its limits; in this one only what the worker
made is decoded.
"""

import gzip
import io
import lzma
import struct
import time
import zipfile
import zlib

import pytest
from PIL import Image, PngImagePlugin

from node import photo_worker
from protocol import limits
from runtime.env import real_env, run_child

WALL_SECONDS = 60.0


def asked(order: str, picture: bytes, *, wall_seconds: float = WALL_SECONDS) -> bytes | None:
    """What the worker answers, or None when it had to be ended."""
    return run_child(
        "node.photo_worker",
        order.encode() + b"\n" + picture,
        wall_seconds=wall_seconds,
        answer_bytes_max=photo_worker.ANSWER_BYTES_MAX,
    )


def made(picture: bytes) -> tuple[str, bytes, bytes]:
    """Kind, photo and thumbnail of a picture that is taken."""
    answer = asked("make", picture)
    assert answer is not None
    line, _, rest = answer.partition(b"\n")
    word, kind, photo, thumbnail = line.decode().split()
    assert word == "ok", line
    assert len(rest) == int(photo) + int(thumbnail)
    return kind, rest[: int(photo)], rest[int(photo) :]


def refused(picture: bytes, order: str = "make") -> str:
    """The code by which a picture is refused."""
    answer = asked(order, picture)
    assert answer is not None
    word, code = answer.decode().split()
    assert word == "no"
    return code


def check(picture: bytes, kind: str = "jpeg", most: int = limits.PHOTO_BYTES_MAX) -> str:
    """The code by which the receiving side refuses a picture, or empty."""
    answer = asked(f"check {kind} {most}", picture)
    assert answer is not None
    return "" if answer.startswith(b"ok ") else answer.decode().split()[1]


def a_picture(size: tuple[int, int] = (640, 480), mode: str = "RGB") -> Image.Image:
    """Something with edges and gradients, so that encoders have work."""
    image = Image.effect_mandelbrot(size, (-2.0, -1.2, 0.8, 1.2), 60)
    return image.convert(mode)


def written(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file of this format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, rows: int) -> bytes:
    """A PNG of one bit to the pixel whose header claims a size, with so many rows of zeros in it."""
    pack = zlib.compressobj(9)
    packed = b"".join(pack.compress(bytes(width // 8 + 1)) for _ in range(rows)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_made_anew_and_passes_at_the_other_end(mode: str) -> None:
    """Same size, a thumbnail in its limits, and both are what a recipient takes."""
    kind, photo, thumbnail = made(written(a_picture(mode=mode)))
    assert kind == "jpeg"
    assert Image.open(io.BytesIO(photo)).size == (640, 480)
    assert max(Image.open(io.BytesIO(thumbnail)).size) == photo_worker.THUMBNAIL_PIXELS
    assert len(thumbnail) <= limits.THUMBNAIL_BYTES_MAX
    assert check(photo) == ""
    assert check(thumbnail, most=limits.THUMBNAIL_BYTES_MAX) == ""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_png_stays_a_png_of_whatever_kind(mode: str) -> None:
    """Palettes, transparency and sixteen bits come out as plain pixels."""
    image = a_picture(mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.frombytes("I;16", (64, 64), bytes(range(256)) * 32)
    kind, photo, thumbnail = made(written(image, "PNG"))
    assert kind == "png"
    assert Image.open(io.BytesIO(photo)).size == image.size
    assert (check(photo, "png"), check(thumbnail)) == ("", "")


def test_the_limits_of_the_worker_are_those_of_the_protocol() -> None:
    """It imports nothing of ours, so its numbers stand in it a second time."""
    assert photo_worker.PIXELS_MAX == limits.PHOTO_PIXELS_MAX
    assert photo_worker.PHOTO_BYTES_MAX == limits.PHOTO_BYTES_MAX
    assert photo_worker.THUMBNAIL_BYTES_MAX == limits.THUMBNAIL_BYTES_MAX


def test_a_small_file_that_would_decode_to_gigabytes_is_refused_by_its_header() -> None:
    """B46: 20,000 x 20,000 and 12,000 x 12,000 pixels in some kilobytes; 20 million go."""
    for side in (20_000, 12_000):
        bomb = png_claiming(side, side, side)
        assert len(bomb) < 64 * 1024
        assert refused(bomb) == "photo_pixels"
        assert check(bomb, "png") == "photo_pixels"
    kind, _, _ = made(written(Image.new("RGB", (5000, 4000), "navy")))
    assert kind == "jpeg"
    assert refused(written(Image.new("L", (5000, 4001)))) == "photo_pixels"


def test_an_animation_is_one_picture_or_none() -> None:
    """B47: of a PNG of many frames the first is left; GIF and WebP are not taken."""
    frames = [Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(200)]
    many = written(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert b"acTL" in many
    kind, photo, _ = made(many)
    assert (kind, getattr(Image.open(io.BytesIO(photo)), "n_frames", 1)) == ("png", 1)
    assert check(many, "png") == "photo_extra"
    for form in ("GIF", "WEBP"):
        assert refused(written(frames[0], form, save_all=True, append_images=frames[1:])) == "photo_kind"


def test_archives_are_no_pictures_and_nothing_is_unpacked() -> None:
    """B48, B49: a zip bomb, a nested one, and names that climb out of their folder."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../../etc/passwd", "/abs.jpg", "C:\\photo.jpg", "CON.jpg", "inner.zip"):
            archive.writestr(name, inner.getvalue())
    for bomb in (inner.getvalue(), outer.getvalue()):
        assert refused(bomb) == "photo_kind"
        # Behind a whole picture it vanishes with everything that is no pixel.
        _, photo, _ = made(written(a_picture()) + bomb)
        assert b"PK" not in photo[-64:]
        assert check(written(a_picture()) + bomb) == "photo_extra"


def test_compressed_streams_are_not_opened_and_chunks_of_text_are_not_inflated() -> None:
    """B50: gzip and xz are no pictures; text in a PNG that inflates to a gigabyte costs no gigabyte."""
    zeros = bytes(50_000_000)
    for bomb in (gzip.compress(zeros), lzma.compress(zeros), zlib.compress(zeros)):
        assert refused(bomb) == "photo_kind"
    plain = written(a_picture((32, 32)), "PNG")
    head, tail = plain[:33], plain[33:]
    for kind in (b"zTXt", b"iCCP"):
        text = png_chunk(kind, b"Comment\x00\x00" + zlib.compress(bytes(200_000_000), 9))
        answer = asked("make", head + text + tail)
        assert answer is not None
        assert answer.startswith(b"no ") or len(answer) < 64 * 1024
        assert check(head + text + tail, "png") in ("photo_extra", "photo_damaged")


@pytest.mark.parametrize(
    "other",
    [b"<html><script>alert(1)</script></html>", b"%PDF-1.7\n1 0 obj<<>>endobj", b"#!/bin/sh\nexit\n"],
)
def test_a_file_that_is_two_things_leaves_as_a_picture_alone(other: bytes) -> None:
    """B51: appended, put in front, or hidden in a comment, whatever its name or type said."""
    plain = written(a_picture())
    comment = plain[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(other)) + other + plain[2:]
    for both in (plain + other, comment, written(a_picture(), "PNG") + other):
        _, photo, thumbnail = made(both)
        assert other not in photo + thumbnail
    assert refused(other + plain) == "photo_kind"
    assert check(plain + other) == check(comment) == "photo_extra"
    assert check(written(a_picture(), "PNG"), "jpeg") == "photo_kind"
    assert check(plain, "png") == "photo_kind"


@pytest.mark.parametrize(
    "text",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        b'<svg><foreignObject><iframe src="https://evil.example"/></foreignObject></svg>',
    ],
)
def test_drawings_are_no_photos(text: bytes) -> None:
    """B52: SVG is text that a browser would run."""
    assert refused(text) == check(text) == "photo_kind"


def test_documents_are_no_photos() -> None:
    """B53: a PDF that opens with a script."""
    pdf = b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.launchURL('x'))>>>>endobj\n%%EOF"
    assert refused(pdf) == check(pdf) == "photo_kind"


def test_where_and_with_what_a_photo_was_taken_goes_but_not_which_way_up_it_is() -> None:
    """B54: EXIF with its position, XMP with an entity, profiles and comments; the orientation is applied."""
    image = a_picture((64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "CANARY-MAKER"
    exif.get_ifd(0x8825)[2] = (21.0, 2.0, 3.0)
    xmp = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>CANARY&e;</x>'
    whole = written(
        image, "JPEG", exif=exif, xmp=xmp, comment=b"CANARY", icc_profile=b"CANARY" * 40, dpi=(300, 300)
    )
    assert whole.count(b"CANARY") >= 3
    _, photo, thumbnail = made(whole)
    for left in (photo, thumbnail):
        opened = Image.open(io.BytesIO(left))
        assert not opened.getexif()
        assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert b"CANARY" not in left
        assert b"Exif" not in left
    assert Image.open(io.BytesIO(photo)).size == (32, 64)
    assert check(whole) == "photo_extra"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "CANARY")
    notes.add_itxt("XML:com.adobe.xmp", xmp.decode())
    pictured = written(image, "PNG", pnginfo=notes, exif=exif)
    _, photo, _ = made(pictured)
    assert b"CANARY" not in photo
    assert check(pictured, "png") == "photo_extra"


@pytest.mark.parametrize("form", ["TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "ICO", "PPM", "AVIF"])
def test_other_formats_are_not_looked_into(form: str) -> None:
    """B57: their parsers are not asked, whatever their name; nor for EXR, PSD, TIFF by their start."""
    assert refused(written(a_picture((64, 64)), form)) == "photo_kind"
    for start in (b"v/1\x01", b"8BPS\x00\x01", b"II*\x00", b"\x00\x00\x00\x0cjP  \r\n\x87\n"):
        assert refused(start + bytes(4096)) == "photo_kind"


def test_a_damaged_picture_is_refused_wherever_it_is_cut() -> None:
    """Nothing partial is shown; no cut crashes the worker."""
    for form, kind in (("JPEG", "jpeg"), ("PNG", "png")):
        whole = made(written(a_picture((64, 48)), form))[1]
        for end in (0, 1, 8, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            assert check(whole[:end], kind) in ("photo_kind", "photo_damaged", "photo_extra"), (form, end)


def test_a_worker_that_takes_too_much_is_ended_and_says_nothing() -> None:
    """By its own limits on memory and file size, or by the clock of whoever started it."""
    env = real_env()
    begun = time.monotonic()
    assert asked("make", written(a_picture()), wall_seconds=0.0) is None
    assert time.monotonic() - begun < WALL_SECONDS
    modest = run_child("tests.node.greedy_child", b"nothing", wall_seconds=WALL_SECONDS, answer_bytes_max=64)
    assert modest == b"x" * 64
    for greed in (b"memory", b"processor", b"file", b"process", b"answer"):
        assert (
            env.process.run_child(
                "tests.node.greedy_child", greed, wall_seconds=WALL_SECONDS, answer_bytes_max=64
            )
            is None
        ), greed
