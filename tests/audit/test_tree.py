"""The tree, its tiles and its proofs, against a second implementation written straight from the RFC."""

import contextlib
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.tree import (
    EMPTY_ROOT,
    ENTRIES,
    HASH_BYTES,
    TILE_WIDTH,
    Frontier,
    Tile,
    consistency_path,
    edge_tiles,
    encode_bundle,
    inclusion_path,
    leaf_hash,
    node_hash,
    parse_tile_path_untrusted,
    perfect_from_tiles,
    root_from_edge,
    split_bundle_untrusted,
    subtree_root,
    tile_path,
    verify_consistency,
    verify_inclusion,
)
from keys.errors import MalformedInput, VerificationFailed

SIZE_MAX = 70
DATA = [b"entry %d" % n for n in range(SIZE_MAX)]
LEAVES = [leaf_hash(entry) for entry in DATA]

# RFC 9162, section 2.1, as it is written there: recursive, on whole lists, and slow.


def mth(data: Sequence[bytes]) -> bytes:
    if not data:
        return sha256().digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def rfc_path(m: int, data: Sequence[bytes]) -> list[bytes]:
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*rfc_path(m, data[:k]), mth(data[k:])]
    return [*rfc_path(m - k, data[k:]), mth(data[:k])]


def rfc_subproof(m: int, data: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(data):
        return [] if whole else [mth(data)]
    k = split(len(data))
    if m <= k:
        return [*rfc_subproof(m, data[:k], whole), mth(data[k:])]
    return [*rfc_subproof(m - k, data[k:], False), mth(data[:k])]


def tiles_of(leaves: Sequence[bytes], size: int) -> Callable[[int, int, int], bytes]:
    """A ReadTile over the first ``size`` leaves, kept in memory."""
    levels = [list(leaves[:size])]
    while len(levels[-1]) >= TILE_WIDTH:
        run = levels[-1]
        full = len(run) // TILE_WIDTH
        levels.append(
            [subtree_root(b"".join(run[n * TILE_WIDTH : (n + 1) * TILE_WIDTH])) for n in range(full)]
        )

    def read(level: int, n: int, width: int) -> bytes:
        hashes = levels[level][n * TILE_WIDTH :][:width]
        assert len(hashes) == width, "a tile wider than the tree was asked for"
        return b"".join(hashes)

    return read


ROOTS = [mth(DATA[:n]) for n in range(SIZE_MAX + 1)]


def test_roots_agree_with_the_rfc() -> None:
    """Frontier, whole-run root and edge root give the RFC's tree hash at every size."""
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == ROOTS[0] == root_from_edge(0, tiles_of(LEAVES, 0))
    for size in range(1, SIZE_MAX + 1):
        frontier.append(LEAVES[size - 1])
        assert frontier.size == size
        assert frontier.root() == ROOTS[size] == subtree_root(b"".join(LEAVES[:size]))
        assert root_from_edge(size, tiles_of(LEAVES, size)) == ROOTS[size]


def test_inclusion_proofs_agree_with_the_rfc_for_every_leaf_of_every_size() -> None:
    """All (i, n) up to 70: the same path, and it verifies for exactly that leaf and root."""
    for size in range(1, SIZE_MAX + 1):
        perfect = perfect_from_tiles(size, tiles_of(LEAVES, size))
        for index in range(size):
            path = inclusion_path(index, size, perfect)
            assert path == rfc_path(index, DATA[:size])
            verify_inclusion(LEAVES[index], index, size, path, ROOTS[size])


def test_consistency_proofs_agree_with_the_rfc_for_every_pair_of_sizes() -> None:
    """All (m, n) up to 70: the same proof, and it verifies."""
    for size in range(1, SIZE_MAX + 1):
        perfect = perfect_from_tiles(size, tiles_of(LEAVES, size))
        for old in range(1, size + 1):
            path = consistency_path(old, size, perfect)
            assert path == rfc_subproof(old, DATA[:size], True)
            verify_consistency(old, ROOTS[old], size, ROOTS[size], path)
        verify_consistency(0, EMPTY_ROOT, size, ROOTS[size], [])


@given(st.integers(1, SIZE_MAX), st.integers(0, SIZE_MAX - 1), st.integers(1, SIZE_MAX), st.data())
def test_a_wrong_inclusion_proof_is_refused(size: int, index: int, other: int, data: st.DataObject) -> None:
    """A proof holds for one (leaf, index, size, root, path) and for nothing near it."""
    index %= size
    path = rfc_path(index, DATA[:size])
    wrong_index = data.draw(st.integers(-1, size + 1).filter(lambda i: i != index))
    attempts: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (LEAVES[(index + 1) % SIZE_MAX], index, size, path, ROOTS[size]),
        (LEAVES[index], wrong_index, size, path, ROOTS[size]),
        (LEAVES[index], index, size, [*path, bytes(32)], ROOTS[size]),
        (LEAVES[index], index, size, path, bytes(32)),
    ]
    if path:
        attempts.append((LEAVES[index], index, size, path[:-1], ROOTS[size]))
        attempts.append(
            (LEAVES[index], index, size, [*path[1:], path[0]], ROOTS[size]) if path[1:] else attempts[0]
        )
    if other != size and rfc_path(index % other, DATA[:other]) != path:
        attempts.append((LEAVES[index], index, other, path, ROOTS[other]))
    for leaf, at, count, proof, root in attempts:
        with pytest.raises(VerificationFailed, match="not_included"):
            verify_inclusion(leaf, at, count, proof, root)


def test_a_proof_must_have_the_length_of_its_tree() -> None:
    """A path whose hashes add up to the root, but for a tree of another size, proves nothing."""
    with pytest.raises(VerificationFailed, match="not_included"):
        verify_inclusion(LEAVES[0], 0, 2, [], LEAVES[0])
    with pytest.raises(VerificationFailed, match="not_included"):
        verify_inclusion(LEAVES[1], 0, 1, [LEAVES[0]], ROOTS[2])
    with pytest.raises(VerificationFailed, match="not_a_prefix"):
        verify_consistency(1, ROOTS[1], 4, ROOTS[2], [LEAVES[1]])
    with pytest.raises(VerificationFailed, match="not_a_prefix"):
        verify_consistency(2, ROOTS[2], 3, ROOTS[4], [*rfc_subproof(2, DATA[:4], True), LEAVES[0]])
    extra = [*rfc_subproof(3, DATA[:4], True), LEAVES[5]]
    longer_root, longer_old = (node_hash(LEAVES[5], root) for root in (ROOTS[4], ROOTS[3]))
    with pytest.raises(VerificationFailed, match="not_a_prefix"):
        verify_consistency(3, longer_old, 4, longer_root, extra)


@given(st.integers(0, SIZE_MAX), st.integers(0, SIZE_MAX), st.data())
def test_a_wrong_consistency_proof_is_refused(old: int, size: int, data: st.DataObject) -> None:
    """A changed root, size or path is refused; so is a tree that shrank."""
    old, size = min(old, size), max(old, size)
    path = rfc_subproof(old, DATA[:size], True) if old else []
    verify_consistency(old, ROOTS[old], size, ROOTS[size], path)
    attempts = [
        (old, bytes(32), size, ROOTS[size], path),
        (old, ROOTS[old], size, ROOTS[size], [*path, bytes(32)]),
        (size + 1, ROOTS[old], size, ROOTS[size], path),
        (-1, ROOTS[old], size, ROOTS[size], path),
    ]
    if old:
        attempts.append((old, ROOTS[old], size, bytes(32), path))
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        attempts.append((old, ROOTS[old], size, ROOTS[size], path[:at] + path[at + 1 :]))
        attempts.append((old, ROOTS[old], size, ROOTS[size], [*path[:at], bytes(32), *path[at + 1 :]]))
    for old_size, old_root, new_size, root, proof in attempts:
        with pytest.raises(VerificationFailed, match="not_a_prefix"):
            verify_consistency(old_size, old_root, new_size, root, proof)


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 1000])
def test_tiles_carry_proofs_across_their_borders(size: int) -> None:
    """Where a tile is full its root stands one level up; proofs read there must agree with the RFC."""
    data = [b"%d" % n for n in range(size)]
    leaves = [leaf_hash(entry) for entry in data]
    read = tiles_of(leaves, size)
    root = mth(data)
    assert root_from_edge(size, read) == root
    frontier = Frontier()
    for at in range(0, size - TILE_WIDTH + 1, TILE_WIDTH):
        frontier.append_tile(subtree_root(b"".join(leaves[at : at + TILE_WIDTH])))
    rest = b"".join(leaves[size - size % TILE_WIDTH :])
    assert (frontier.root_with(subtree_root(rest)) if rest else frontier.root()) == root
    perfect = perfect_from_tiles(size, read)
    for index in {0, 1, 254, 255 % size, 256 % size, size // 2, size - 2, size - 1}:
        path = inclusion_path(index, size, perfect)
        assert path == rfc_path(index, data)
        verify_inclusion(leaves[index], index, size, path, root)
    for old in {1, 2, 128, 255, 256 % size or 1, size - 1, size}:
        path = consistency_path(old, size, perfect)
        assert path == rfc_subproof(old, data, True)
        verify_consistency(old, mth(data[:old]), size, root, path)


def test_a_tree_of_seventy_thousand_has_the_tiles_of_the_standard_example() -> None:
    """70,000 entries leave a partial tile of 112, one of 17 and one of 1."""
    assert [(t.level, t.n, t.width) for t in edge_tiles(70_000)] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert [(t.level, t.n, t.width) for t in edge_tiles(256)] == [(1, 0, 1)]
    assert edge_tiles(0) == []


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(level=0, n=0, width=256), "tile/0/000"),
        (Tile(level=1, n=1234067, width=256), "tile/1/x001/x234/067"),
        (Tile(level=0, n=999, width=5), "tile/0/999.p/5"),
        (Tile(level=ENTRIES, n=1000, width=255), "tile/entries/x001/000.p/255"),
    ],
)
def test_tile_paths_are_written_as_the_standard_does(tile: Tile, path: str) -> None:
    """Three digits a step, all but the last behind an x, the width of partial tiles at the end."""
    assert tile.path == tile_path(tile.level, tile.n, tile.width) == path
    assert parse_tile_path_untrusted(path) == tile


@given(st.text(alphabet="tile/entries0123456789x.p/", max_size=40))
def test_a_tile_path_has_one_spelling(text: str) -> None:
    """Any text is a path that spells itself, or MalformedInput."""
    for path in (text, f"tile/{text}", f"tile/0/{text}"):
        with contextlib.suppress(MalformedInput):
            assert parse_tile_path_untrusted(path).path == path


@pytest.mark.parametrize(
    "path",
    [
        "tile/8/000",
        "tile/0/0",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/00/000",
        "tile/0/000/",
        "tile/-1/000",
    ],
)
def test_other_spellings_are_refused(path: str) -> None:
    """Leading zero groups, full tiles written as partial, unknown levels."""
    with pytest.raises(MalformedInput, match="bad_tile_path"):
        parse_tile_path_untrusted(path)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=TILE_WIDTH))
def test_a_bundle_splits_into_what_it_was_made_of(entries: list[bytes]) -> None:
    """Length, entry, length, entry."""
    assert split_bundle_untrusted(encode_bundle(entries)) == entries


@given(st.binary(max_size=600))
def test_any_bytes_are_a_bundle_or_malformed(data: bytes) -> None:
    """What splits is exactly what encodes back."""
    with contextlib.suppress(MalformedInput):
        assert encode_bundle(split_bundle_untrusted(data)) == data


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01", b"\x00\x00" * 257, b"\xff\xff" + bytes(65534)])
def test_a_bundle_that_does_not_add_up_is_refused(data: bytes) -> None:
    """No entries, half a length, a length beyond the end, more than a tile of them."""
    with pytest.raises(MalformedInput, match="bad_bundle"):
        split_bundle_untrusted(data)


def test_proofs_are_only_made_for_what_is_there() -> None:
    """A leaf or an old size outside the tree is the caller's mistake; a short tile is the disk's."""
    perfect = perfect_from_tiles(5, tiles_of(LEAVES, 5))
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_path(index, size, perfect)
    for old, size in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="no consistency proof"):
            consistency_path(old, size, perfect)
    with pytest.raises(VerificationFailed, match="tile_short"):
        inclusion_path(0, 5, perfect_from_tiles(5, lambda _level, _n, width: bytes((width - 1) * HASH_BYTES)))
    frontier = Frontier()
    frontier.append(LEAVES[0])
    with pytest.raises(ValueError, match="whole tiles"):
        frontier.append_tile(LEAVES[0])
