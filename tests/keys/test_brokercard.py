"""An address is one spelling of one broker, and the broker must show the card it names."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.brokercard import (
    BrokerAddress,
    broker_card_fingerprint,
    parse_broker_address_untrusted,
    verify_broker_card,
)
from keys.errors import MalformedInput, VerificationFailed
from tests.keys.builders import (
    a_broker_address,
    a_broker_card,
    drawn,
)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("::ffff:7f00:1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("::ffff:a00:7", False),
        ("10.0.0.7", False),
        ("2001:db8::1", False),
        ("relay.example", False),
        ("xn--relay-9ta.example", False),
        ("localhost.example", False),
    ],
)
def test_an_address_comes_back_as_it_was_written(host: str, loopback: bool) -> None:
    """Names, IPv4 and IPv6; what can only be this machine may go without TLS, in every spelling."""
    address = BrokerAddress(host=host, port=7440, card_sha256=drawn("card", 32))
    assert parse_broker_address_untrusted(str(address)) == address
    assert address.is_loopback is loopback


FINGERPRINT = str(a_broker_address()).partition("#")[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"https://relay.example:7440#{FINGERPRINT}",
        f"SALWEEN://relay.example:7440#{FINGERPRINT}",
        f"salween://relay.example#{FINGERPRINT}",
        f"salween://relay.example:0#{FINGERPRINT}",
        f"salween://relay.example:07440#{FINGERPRINT}",
        f"salween://relay.example:65536#{FINGERPRINT}",
        f"salween://relay.example:99999#{FINGERPRINT}",
        f"salween://user@relay.example:7440#{FINGERPRINT}",
        f"salween://user:word@relay.example:7440#{FINGERPRINT}",
        f"salween://relay.example:7440/path#{FINGERPRINT}",
        f"salween://relay.example:7440?q#{FINGERPRINT}",
        "salween://relay.example:7440",
        "salween://relay.example:7440#",
        f"salween://relay.example:7440#{FINGERPRINT}\n",
        f" salween://relay.example:7440#{FINGERPRINT}",
        f"salween://relay.example:7440#{FINGERPRINT[:-1]}",
        f"salween://relay.example:7440#{FINGERPRINT}a",
        f"salween://relay.example:7440#{FINGERPRINT.upper()}",
        f"salween://relay.example:7440#{FINGERPRINT[:-1]}z",  # bits beyond the hash
        f"salween://Relay.example:7440#{FINGERPRINT}",
        f"salween://relay..example:7440#{FINGERPRINT}",
        f"salween://relay.example.:7440#{FINGERPRINT}",
        f"salween://-relay.example:7440#{FINGERPRINT}",
        f"salween://relay_one:7440#{FINGERPRINT}",
        f"salween://127.1:7440#{FINGERPRINT}",
        f"salween://0127.0.0.1:7440#{FINGERPRINT}",
        f"salween://256.0.0.1:7440#{FINGERPRINT}",
        f"salween://2130706433:7440#{FINGERPRINT}",
        f"salween://::1:7440#{FINGERPRINT}",
        f"salween://[127.0.0.1]:7440#{FINGERPRINT}",
        f"salween://[relay]:7440#{FINGERPRINT}",
        f"salween://[0::1]:7440#{FINGERPRINT}",
        f"salween://[::1:7440#{FINGERPRINT}",
        f"salween://myanmar\u2024example:7440#{FINGERPRINT}",
        f"salween://{'a' * 64}.example:7440#{FINGERPRINT}",
        f"salween://{'a.' * 150}example:7440#{FINGERPRINT}",
        f"salween://relay.example:٧٤٤٠#{FINGERPRINT}",
    ],
)
def test_an_address_is_exactly_what_it_should_be(text: str) -> None:
    """No other scheme, credentials, path, second spelling or foreign digits."""
    with pytest.raises(MalformedInput, match="broker_address_malformed"):
        parse_broker_address_untrusted(text)


@given(st.text(alphabet="salwen:/#@[]?0127.-x\n", max_size=60).map(lambda text: "salween://" + text))
def test_an_address_gives_malformed_input_or_its_one_spelling(text: str) -> None:
    """Whatever is typed."""
    for candidate in (text, f"{text}#{FINGERPRINT}", f"{text}:7440#{FINGERPRINT}"):
        with contextlib.suppress(MalformedInput):
            assert str(parse_broker_address_untrusted(candidate)) == candidate


def test_a_broker_must_show_the_card_its_address_names() -> None:
    """Any other card is another broker, however similar; one with unusable keys is none."""
    card = a_broker_card()
    verify_broker_card(card, a_broker_address())
    with pytest.raises(VerificationFailed, match="broker_card_mismatch"):
        verify_broker_card(replace(card, name="Upper Salween relay 2"), a_broker_address())
    useless = replace(card, custody_public=bytes(32))
    address = replace(a_broker_address(), card_sha256=broker_card_fingerprint(useless))
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        verify_broker_card(useless, address)
