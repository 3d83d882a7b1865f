"""The Merkle tree: RFC 6962 hashing, C2SP tile geometry, inclusion and consistency proofs.

Spec: RFC 6962 section 2.1, RFC 9162 sections 2.1.3 and 2.1.4, C2SP tlog-tiles; docs/spec/log.md#tree.

One rule: a hash is 32 bytes, and every function that checks raises VerificationFailed rather than returning a
bool. Does not: read files; callers bring tiles through a ``ReadTile`` function.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Final

from keys.errors import MalformedInput, VerificationFailed

HASH_BYTES: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
LEVEL_MAX: Final = 7
"""Eight levels of tiles hold 2^64 leaves; sizes are below 2^53."""

EMPTY_ROOT: Final = sha256(b"").digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"

ReadTile = Callable[[int, int, int], bytes]
"""(level, n, width) -> the first ``width`` hashes of that tile, 32 * width bytes."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one leaf, 32 bytes (RFC 6962 section 2.1)."""
    return sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of one inner node, 32 bytes."""
    return sha256(_NODE + left + right).digest()


def subtree_root(hashes: bytes) -> bytes:
    """Root over any number >= 1 of consecutive hashes laid end to end, as RFC 6962 splits them.

    Level by level, an odd last hash rises unchanged: the same tree as splitting at the largest power of two.
    """
    while len(hashes) > HASH_BYTES:
        pairs = [
            sha256(_NODE + hashes[at : at + 64]).digest()
            for at in range(0, len(hashes) - len(hashes) % 64, 64)
        ]
        odd = hashes[len(hashes) - len(hashes) % 64 :]
        hashes = b"".join(pairs) + odd
    return hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile or entry bundle of a tree: ``level`` -1 is the bundle of entries above level 0's leaves."""

    level: int
    n: int
    width: int

    @property
    def path(self) -> str:
        """Path below the log's directory, as C2SP tlog-tiles writes it."""
        return tile_path(self.level, self.n, self.width)


ENTRIES: Final = -1
"""The ``level`` that stands for entry bundles."""


def tile_path(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """``tile/<level>/<n>[.p/<width>]``; ``level`` ENTRIES gives the bundle's path."""
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03d}")
    name = "entries" if level == ENTRIES else str(level)
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{name}/{'/'.join(reversed(groups))}{partial}"


_TILE_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-7])/(?P<n>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


def parse_tile_path_untrusted(path: str) -> Tile:
    """The tile a path names. MalformedInput ``bad_tile_path`` for any other spelling."""
    match = _TILE_PATH.fullmatch(path)
    if match is None:
        raise MalformedInput("bad_tile_path", "not a tile or bundle path")
    level = ENTRIES if match["level"] == "entries" else int(match["level"])
    n = int(match["n"].replace("x", "").replace("/", ""))
    width = TILE_WIDTH if match["width"] is None else int(match["width"])
    tile = Tile(level=level, n=n, width=width)
    if width > TILE_WIDTH or tile.path != path:
        raise MalformedInput("bad_tile_path", "not the shortest spelling of a tile path")
    return tile


def tiles_at_level(size: int, level: int) -> tuple[int, int]:
    """(full tiles, width of the partial one or 0) at ``level`` >= 0 in a tree of ``size`` leaves."""
    hashes = size >> (TILE_HEIGHT * level)
    return hashes >> TILE_HEIGHT, hashes & (TILE_WIDTH - 1)


def edge_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree, lowest level first: exactly what its root can be recomputed from."""
    edge = []
    for level in range(LEVEL_MAX + 1):
        full, width = tiles_at_level(size, level)
        if width:
            edge.append(Tile(level=level, n=full, width=width))
        if not full:
            break
    return edge


def root_from_edge(size: int, read_tile: ReadTile) -> bytes:
    """Root of the tree of ``size`` leaves from its partial tiles alone: at most 255 hashes a level."""
    root: bytes | None = None
    for tile in edge_tiles(size):
        hashes = read_tile(tile.level, tile.n, tile.width)
        # What the lower levels left over hangs below this tile's last, smallest perfect subtree.
        root = subtree_root(hashes) if root is None else _fold(perfect_subtrees(hashes), root)
    return EMPTY_ROOT if root is None else root


def perfect_subtrees(hashes: bytes) -> list[bytes]:
    """Roots of the perfect subtrees, largest first, that a run of consecutive hashes splits into."""
    count, at, roots = len(hashes) // HASH_BYTES, 0, []
    while at < count:
        width = 1 << ((count - at).bit_length() - 1)
        roots.append(subtree_root(hashes[at * HASH_BYTES : (at + width) * HASH_BYTES]))
        at += width
    return roots


def _fold(left: Iterable[bytes], right: bytes) -> bytes:
    for part in reversed(list(left)):
        right = node_hash(part, right)
    return right


class Frontier:
    """The right edge of a growing tree: perfect subtrees by height, enough to append and to give the root.

    Holds at most 53 hashes; appending is O(1) amortised.
    """

    __slots__ = ("_subtrees", "size")

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self._push(0, leaf)

    def append_tile(self, root: bytes) -> None:
        """Add 256 leaves by the root over them; the size must be a multiple of 256."""
        if self.size % TILE_WIDTH:
            raise ValueError("a tile can only follow whole tiles")
        self._push(TILE_HEIGHT, root)

    def _push(self, height: int, root: bytes) -> None:
        self.size += 1 << height
        subtrees = self._subtrees
        while subtrees and subtrees[-1][0] == height:
            root = sha256(_NODE + subtrees.pop()[1] + root).digest()
            height += 1
        subtrees.append((height, root))

    def root(self) -> bytes:
        """Root over everything appended so far, 32 bytes."""
        if not self._subtrees:
            return EMPTY_ROOT
        *left, (_, right) = self._subtrees
        return _fold((root for _, root in left), right)

    def root_with(self, subtree: bytes) -> bytes:
        """Root if 1 to 255 more leaves with this subtree_root followed; the size must be whole tiles."""
        return _fold((root for _, root in self._subtrees), subtree)


# Entry bundles


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries end to end, each behind its length as u16 big-endian (C2SP tlog-tiles)."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def split_bundle_untrusted(data: bytes) -> list[bytes]:
    """The entries of a bundle, 1 to 256. MalformedInput ``bad_bundle`` when lengths and data do not agree."""
    entries, at, end = [], 0, len(data)
    while at < end:
        start = at + 2
        at = start + (data[start - 2] << 8 | data[start - 1] if start <= end else 1)
        entries.append(data[start:at])
    if at != end or not 0 < len(entries) <= TILE_WIDTH:
        raise MalformedInput("bad_bundle", f"{len(data)} bytes do not split into 1 to 256 entries")
    return entries


# Proofs


def perfect_from_tiles(size: int, read_tile: ReadTile) -> Callable[[int, int], bytes]:
    """(height, i) -> root over leaves [i << height, (i + 1) << height), from the tiles of ``size`` leaves.

    Each tile is read once: for one proof, not to be kept.
    """
    read_tile = cache(read_tile)

    def perfect(height: int, i: int) -> bytes:
        level, within = divmod(height, TILE_HEIGHT)
        first = i << within
        n, offset = first >> TILE_HEIGHT, first & (TILE_WIDTH - 1)
        full, width = tiles_at_level(size, level)
        hashes = read_tile(level, n, TILE_WIDTH if n < full else width)
        part = hashes[offset * HASH_BYTES : (offset + (1 << within)) * HASH_BYTES]
        if len(part) != HASH_BYTES << within:
            raise VerificationFailed(
                "tile_short", f"tile {tile_path(level, n)} does not reach leaf {i << height}"
            )
        return subtree_root(part)

    return perfect


def _range_root(begin: int, end: int, perfect: Callable[[int, int], bytes]) -> bytes:
    """MTH(D[begin:end]) for a range that starts where a subtree of its size may start."""
    roots = []
    while begin < end:
        height = (end - begin).bit_length() - 1
        roots.append(perfect(height, begin >> height))
        begin += 1 << height
    return _fold(roots[:-1], roots[-1])


def inclusion_path(index: int, size: int, perfect: Callable[[int, int], bytes]) -> list[bytes]:
    """The audit path of leaf ``index`` in a tree of ``size``, its sibling first (RFC 9162 2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if index < middle:
            path.append(_range_root(middle, end, perfect))
            end = middle
        else:
            path.append(_range_root(begin, middle, perfect))
            begin = middle
    return path[::-1]


def consistency_path(old_size: int, size: int, perfect: Callable[[int, int], bytes]) -> list[bytes]:
    """The proof that the tree of ``old_size`` is a prefix of that of ``size`` (RFC 9162 2.1.4.1).

    Empty for equal sizes. ``old_size`` is at least 1.
    """
    if not 0 < old_size <= size:
        raise ValueError(f"no consistency proof from {old_size} to {size}")
    path, begin, end, whole = [], 0, size, True
    while end != old_size:
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if old_size <= middle:
            path.append(_range_root(middle, end, perfect))
            end = middle
        else:
            path.append(_range_root(begin, middle, perfect))
            begin, whole = middle, False
    if not whole:
        path.append(_range_root(begin, end, perfect))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` (its hash) is leaf ``index`` of the tree (size, root), as RFC 9162 2.1.3.2 does.

    VerificationFailed ``not_included``.
    """
    if not 0 <= index < size:
        raise VerificationFailed("not_included", f"index {index} is outside a tree of {size}")
    node, last, current = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise VerificationFailed("not_included", "the path is too long")
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    if last or current != root:
        raise VerificationFailed("not_included", f"leaf {index} does not lead to this root")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree (old_size, old_root) is a prefix of (size, root), as RFC 9162 2.1.4.2 does.

    VerificationFailed ``not_a_prefix``. A tree of 0 leaves is a prefix of every tree, with an empty path.
    """
    failed = VerificationFailed("not_a_prefix", f"the tree of {old_size} is not a prefix of that of {size}")
    if old_size > size or old_size < 0:
        raise failed
    if old_size in (0, size):
        if path or old_root != (root if old_size else EMPTY_ROOT):
            raise failed
        return
    rest = list(path)
    if old_size & (old_size - 1) == 0:
        rest.insert(0, old_root)
    if not rest:
        raise failed
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_current = current = rest[0]
    for part in rest[1:]:
        if last == 0:
            raise failed
        if node & 1 or node == last:
            old_current, current = node_hash(part, old_current), node_hash(part, current)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, part)
        node, last = node >> 1, last >> 1
    if last or old_current != old_root or current != root:
        raise failed
