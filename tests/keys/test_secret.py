"""Secrets do not come out by accident: not printed, logged, pickled, copied or compared."""

import copy
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant
from keys.keystore import KdfParameters, Keystore
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey, XWingPrivateKey
from keys.secret import SecretBytes
from tests.keys.files import MemoryFiles

CANARY = b"canary-canary-canary-canary-0123"
FORMS = (CANARY.decode(), CANARY.hex(), repr(CANARY), repr(bytearray(CANARY)))


@dataclass(frozen=True, slots=True)
class Holder:
    """Any value object with a secret inside."""

    name: str
    secret: SecretBytes


def _holders() -> list[Any]:
    store = Keystore.create(
        MemoryFiles(),
        "keystore",
        SecretBytes(CANARY),
        {"log": SecretBytes(CANARY)},
        random=lambda n: bytes(n),
        kdf=KdfParameters(memory_kib=8, iterations=1, lanes=1),
    )
    return [
        SecretBytes(CANARY),
        Ed25519PrivateKey.from_seed(SecretBytes(CANARY)),
        CompositePrivateKey.from_seed(SecretBytes(CANARY * 2)),
        XWingPrivateKey.from_seed(SecretBytes(CANARY)),
        store,
    ]


HOLDERS = pytest.mark.parametrize("holder", _holders(), ids=lambda holder: type(holder).__name__)


def _assert_silent(text: str) -> None:
    for form in FORMS:
        assert form not in text


@HOLDERS
def test_no_text_form_shows_a_secret(holder: Any) -> None:
    """repr, str, f-strings with and without width, %-formatting, format, containers and value objects."""
    texts = [
        repr(holder),
        str(holder),
        f"{holder}",
        f"{holder!r}",
        f"{holder!a}",
        f"{holder:>80}",
        "%s %r".__mod__((holder, holder)),
        f"{holder:x<9}",
        repr([holder]),
        repr({"key": holder}),
        repr(Holder("x", holder)),
        str(Holder("x", holder)),
    ]
    for text in texts:
        _assert_silent(text)


@HOLDERS
@pytest.mark.parametrize(
    "leak",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgpack.packb,
        hash,
        lambda holder: asdict(Holder("x", holder)),
        lambda holder: holder == holder,
        lambda holder: holder != holder,
        lambda holder: holder == CANARY,
        lambda holder: Holder("x", holder) == Holder("x", SecretBytes(CANARY)),
        lambda holder: {holder},
        lambda holder: bytes(holder),
        lambda holder: list(holder),
        lambda holder: b"" + holder,
        lambda holder: sorted([holder, holder]),
        vars,
    ],
)
def test_what_would_copy_or_compare_a_secret_is_a_type_error(
    holder: Any, leak: Callable[[Any], object]
) -> None:
    """A mistake fails where it is made, and the error names no secret."""
    with pytest.raises(TypeError) as caught:
        leak(holder)
    _assert_silent(str(caught.value))


def test_a_secret_has_no_truth_value() -> None:
    """``if secret:`` would read a wiped secret as no secret."""
    with pytest.raises(TypeError, match="truth value"):
        bool(SecretBytes(CANARY))


def test_tracebacks_with_local_variables_show_no_secret() -> None:
    """structlog and the standard library print the locals of each frame when asked; ours print a size."""

    def fails(secret: SecretBytes, holder: Holder) -> None:
        raise ValueError(f"with {secret} and {holder}")

    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
            ),
            structlog.processors.JSONRenderer(),
        ],
    )
    try:
        fails(SecretBytes(CANARY), Holder("x", SecretBytes(CANARY)))
    except ValueError as error:
        log.exception("failed", secret=SecretBytes(CANARY), held=Holder("x", SecretBytes(CANARY)))
        captured = traceback.TracebackException.from_exception(error, capture_locals=True)
        stream.write("".join(captured.format()))
    record = logging.LogRecord("x", 0, "", 0, "%s", (SecretBytes(CANARY),), None)
    stream.write(record.getMessage())
    text = stream.getvalue()
    assert "<secret 32 bytes>" in text
    _assert_silent(text)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_only_reveal_and_equals_tell(a: bytes, b: bytes) -> None:
    """``reveal`` gives the bytes, ``equals`` compares them, ``len`` counts them."""
    secret = SecretBytes(a)
    assert secret.reveal() == a
    assert len(secret) == len(a)
    assert secret.equals(SecretBytes(b)) == (a == b)


def test_a_wiped_secret_is_gone() -> None:
    """After ``wipe`` the object is useless rather than empty; a second wipe is harmless."""
    secret = SecretBytes(CANARY)
    held = secret._data
    secret.wipe()
    secret.wipe()
    assert held is not None
    assert bytes(held) == bytes(32)
    assert repr(secret) == "<secret wiped>"
    with pytest.raises(BrokenInvariant, match="secret_wiped"):
        secret.reveal()
