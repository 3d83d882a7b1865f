"""The one process that ever decodes a picture: started for one, given nothing else, and thrown away.

Spec: docs/spec/attachments.md. ``python -I -m node.photo_worker`` reads an order line and a picture from
standard input and writes an answer line and what it made to standard output; both are files in memory. One
rule: whatever a picture does to its decoder ends here. Memory, processor time, files and processes are
limited before the first byte is read, and what comes out was made anew from pixels alone. It imports nothing
of the node: what is not there cannot be taken.

    make\\n<picture>                  ->  ok jpeg 123456 9876\\n<photo><thumbnail>
    check jpeg 26214400\\n<picture>   ->  ok jpeg 0 0\\n
                                          no photo_kind\\n
"""

import io
import re
import resource
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS_MAX: Final = 20_000_000  # protocol.limits.PHOTO_PIXELS_MAX; a test holds these equal
PHOTO_BYTES_MAX: Final = 25 * 2**20
THUMBNAIL_BYTES_MAX: Final = 24 * 2**10
MEMORY_BYTES_MAX: Final = 768 * 2**20  # two copies of 20 million pixels with alpha, both files, Python itself
CPU_SECONDS_MAX: Final = 30
ANSWER_BYTES_MAX: Final = PHOTO_BYTES_MAX + THUMBNAIL_BYTES_MAX + 64
JPEG_QUALITY: Final = 85
THUMBNAIL_PIXELS: Final = 320

# What a JPEG made here consists of: tables, one frame, its scans. No application data but a bare JFIF header.
_JPEG_SEGMENTS: Final = frozenset({0xDB, 0xC0, 0xC1, 0xC2, 0xC4, 0xDD})
_JFIF: Final = b"JFIF\x00\x01"
_SCAN_ENDS: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


class Refused(Exception):
    """Why a picture is not taken: a stable code."""


def limit_this_process() -> None:
    """No more memory, time, files or processes than one picture needs; no core file either."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_SECONDS_MAX),
        (resource.RLIMIT_FSIZE, ANSWER_BYTES_MAX),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def has_only_a_jpeg(data: bytes) -> bool:
    """Whether these bytes are one JPEG and nothing besides: no metadata, nothing behind its end."""
    if data[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        is_header = marker == 0xE0 and length == 16 and data[at + 4 : at + 10] == _JFIF
        if marker == 0xDA:
            end = _SCAN_ENDS.search(data, at + 2 + length)
            if end is None:
                return False
            at = end.start()
            if data[at + 1] == 0xD9:
                return at + 2 == len(data)
        elif is_header or marker in _JPEG_SEGMENTS:
            at += 2 + length
        else:
            return False
    return False


def has_only_a_png(data: bytes) -> bool:
    """The same of a PNG: header, palette, transparency and pixels, and the end at the end."""
    if not data.startswith(_PNG_SIGNATURE):
        return False
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind not in _PNG_CHUNKS:
            return False
        if kind == b"IEND":
            return bool(length == 0 and at == len(data))
    return False


def make(data: bytes) -> tuple[str, bytes, bytes]:
    """Kind, photo and thumbnail made anew from the pixels of a JPEG or PNG, upright."""
    from PIL import Image as Images
    from PIL import ImageOps

    image = ImageOps.exif_transpose(_decoded(data))
    kind = "png" if data.startswith(_PNG_SIGNATURE) else "jpeg"
    has_alpha = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    mode = "RGBA" if has_alpha and kind == "png" else "L" if image.mode in ("1", "L") else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    # Comments, profiles and resolutions travel here from file to file.
    image.info.clear()
    photo = _written(image, kind)
    flat = image
    if image.mode == "RGBA":
        flat = Images.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
    if len(photo) > PHOTO_BYTES_MAX:
        kind, photo = "jpeg", _written(flat, "jpeg")
    if len(photo) > PHOTO_BYTES_MAX:
        raise Refused("photo_too_large")
    return kind, photo, _thumbnail(flat)


def check(data: bytes, kind: str, bytes_max: int) -> None:
    """Refused unless ``data`` is one whole picture of this kind, as ``make`` writes it."""
    if len(data) > bytes_max:
        raise Refused("photo_too_large")
    image = _decoded(data)
    if image.format != {"jpeg": "JPEG", "png": "PNG"}[kind]:
        raise Refused("photo_kind")
    if not (has_only_a_jpeg(data) if kind == "jpeg" else has_only_a_png(data)):
        raise Refused("photo_extra")


def _decoded(data: bytes) -> "Image":
    """The picture with every pixel decoded; what it claims to be is judged before that costs anything."""
    # Pillow is imported nowhere but behind the limits.
    from PIL import Image as Images
    from PIL import UnidentifiedImageError

    Images.MAX_IMAGE_PIXELS = None  # which only warns up to twice its value; ours is exact
    try:
        image: Image = Images.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except UnidentifiedImageError:
        raise Refused("photo_kind") from None
    width, height = image.size
    if width * height > PIXELS_MAX:
        raise Refused("photo_pixels")
    image.load()
    return image


def _written(image: "Image", kind: str, quality: int = JPEG_QUALITY) -> bytes:
    file = io.BytesIO()
    if kind == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _thumbnail(image: "Image") -> bytes:
    side = THUMBNAIL_PIXELS
    while True:
        small = image.copy()
        small.thumbnail((side, side))
        for quality in (75, 55, 35):
            written = _written(small, "jpeg", quality)
            if len(written) <= THUMBNAIL_BYTES_MAX:
                return written
        side //= 2


def answer(order: bytes, data: bytes) -> bytes:
    """The whole answer to an order line and a picture."""
    try:
        match order.decode("ascii").split():
            case ["make"]:
                kind, photo, thumbnail = make(data)
                return f"ok {kind} {len(photo)} {len(thumbnail)}\n".encode() + photo + thumbnail
            case ["check", ("jpeg" | "png") as kind, bytes_max]:
                check(data, kind, int(bytes_max))
                return f"ok {kind} 0 0\n".encode()
        return b"no photo_damaged\n"
    except Refused as refused:
        return f"no {refused}\n".encode()
    except MemoryError:
        return b"no photo_too_hard\n"
    except Exception:
        # Whatever a decoder says of bytes a stranger made is not repeated.
        return b"no photo_damaged\n"


def main() -> None:
    """One order, one answer."""
    limit_this_process()
    order, _, data = sys.stdin.buffer.read().partition(b"\n")
    sys.stdout.buffer.write(answer(order, data))


if __name__ == "__main__":
    main()
