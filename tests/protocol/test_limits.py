"""Limits: each a positive number with its unit, and the relations the formats rest on."""

import re

from protocol import limits

UNITS = (
    "BYTES",
    "POINTS",
    "MS",
    "ITEMS",
    "DEPTH",
    "MESSAGES",
    "MAX",
    "MIN",
)


def test_every_limit_is_a_positive_whole_number_or_a_rising_row_of_them() -> None:
    """A limit of zero, a negative one or a float would switch a check off without a word."""
    for name, value in vars(limits).items():
        if name.isupper():
            row = value if isinstance(value, tuple) else (value,)
            assert all(type(number) is int and number > 0 for number in row), name
            assert list(row) == sorted(set(row)), name


def test_every_limit_says_its_unit_or_that_it_is_a_bound() -> None:
    """A number whose unit must be guessed is read wrongly one day."""
    for name in vars(limits):
        if name.isupper():
            assert any(re.search(rf"(^|_){unit}(_|$)", name) for unit in UNITS), name


def test_the_outside_of_an_envelope_adds_up() -> None:
    """Version, key id and wrap fill exactly what stands before the blob, as the spec page counts it."""
    assert 1 + limits.KEY_ID_BYTES + limits.WRAP_BYTES == limits.BLOB_OFFSET_BYTES == 1257
    assert limits.ENVELOPE_BUCKETS_BYTES == (8 * 1024, 16 * 1024, 32 * 1024, 64 * 1024)
