"""What a broker shows of itself: its card, and the address that pins the card.

Spec: docs/spec/keys.md#broker-card. One rule: nothing here is signed; the address names the hash of the card,
and the card pins the keys and the TLS certificate. So there is no authority, and new keys are a new address.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from keys import layout
from keys.card import NAME_BYTES_MAX, ORIGIN_BYTES_MAX
from keys.errors import MalformedInput, VerificationFailed
from keys.layout import Reader
from keys.primitives import (
    ED25519_PUBLIC_BYTES,
    HASH_BYTES,
    XWING_PUBLIC_BYTES,
    check_ed25519_public,
    constant_time_equal,
    sha256,
)

NO_TLS: Final = bytes(HASH_BYTES)

_FORMAT: Final = 1
_BROKER_MAGIC: Final = b"SLWB"
_ADDRESS: Final = re.compile(
    r"salween://(?P<host>\[[0-9a-f:]{2,39}\]|[a-z0-9.-]{1,253}):(?P<port>[1-9][0-9]{0,4})#(?P<card>[a-z2-7]{52})"
)
_HOST_LABEL: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
BROKER_CARD_BYTES_MAX: Final = 2 * 1024
ADDRESS_CHARACTERS_MAX: Final = 330


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker listens and the card it must show: ``salween://host:port#<base32 SHA-256 of card>``."""

    host: str  # lower-case name, IPv4, or IPv6 without brackets
    port: int
    card_sha256: bytes

    @property
    def is_loopback(self) -> bool:
        """Whether the host can only be this machine; elsewhere a broker without TLS is refused."""
        if self.host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        # A connection to 0.0.0.0 or to ::ffff:127.0.0.1 arrives at this machine like one to 127.0.0.1.
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        return address.is_loopback or address.is_unspecified

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"salween://{host}:{self.port}#{fingerprint_text(self.card_sha256)}"


def fingerprint_text(digest: bytes) -> str:
    """32 bytes as 52 letters of lower-case base32 without padding."""
    return layout.base32(digest)


def check_host(host: str) -> None:
    """Raise MalformedInput (``broker_address_malformed``) unless ``host`` is in BrokerAddress's one form."""
    code = "broker_address_malformed"
    if ":" in host or host.rpartition(".")[2].isdigit():
        try:
            canonical = str(ipaddress.ip_address(host))
        except ValueError as error:
            raise MalformedInput(code, "the host is not a valid IP address") from error
        # The part behind % names an interface of one machine; another one knows nothing by it.
        if canonical != host or "%" in host:
            raise MalformedInput(code, f"the host is not written as {canonical}")
        return
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise MalformedInput(code, "the host is not a valid name in lower case")


def parse_broker_address_untrusted(text: str) -> BrokerAddress:
    """Read ``salween://host:port#fingerprint``, nothing else. MalformedInput ``broker_address_malformed``."""
    code = "broker_address_malformed"
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise MalformedInput(code, "the address is too long")
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise MalformedInput(code, "a broker address is salween://host:port#fingerprint, all in lower case")
    host, port = found["host"].strip("[]"), int(found["port"])
    if found["host"].startswith("[") != (":" in host):
        raise MalformedInput(code, "only an IPv6 address stands in brackets")
    check_host(host)
    if port > 65535:
        raise MalformedInput(code, "the port is larger than 65535")
    digest = layout.base32_bytes(found["card"])
    if digest is None:
        raise MalformedInput(code, "the fingerprint is not written in its one form")
    return BrokerAddress(host=host, port=port, card_sha256=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerCard:
    """A broker's public identity. Not signed: the address names its SHA-256."""

    name: str  # what operators call the network, 1 to 64 bytes of UTF-8
    request_public: bytes  # X-Wing, 1216 bytes: requests are encapsulated to it
    custody_public: bytes  # Ed25519: custody notes and grants
    log_origin: str  # origin line of the broker's log
    log_public: bytes  # Ed25519
    tls_certificate_sha256: bytes  # of the DER certificate; zeros: plain HTTP, loopback only


def encode_broker_card(card: BrokerCard) -> bytes:
    """The one encoding, at most 2 KiB."""
    return b"".join(
        (
            _BROKER_MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(card.request_public, XWING_PUBLIC_BYTES),
            layout.fixed(card.custody_public, ED25519_PUBLIC_BYTES),
            layout.fixed(card.log_public, ED25519_PUBLIC_BYTES),
            layout.fixed(card.tls_certificate_sha256, HASH_BYTES),
            layout.ascii_text(card.log_origin, ORIGIN_BYTES_MAX),
            layout.text(card.name, NAME_BYTES_MAX),
        )
    )


def parse_broker_card_untrusted(data: bytes) -> BrokerCard:
    """Read a broker card; MalformedInput (``broker_card_malformed``). Proves nothing."""
    reader = Reader(data, "broker_card_malformed")
    reader.magic(_BROKER_MAGIC, _FORMAT)
    card = BrokerCard(
        request_public=reader.take(XWING_PUBLIC_BYTES),
        custody_public=reader.take(ED25519_PUBLIC_BYTES),
        log_public=reader.take(ED25519_PUBLIC_BYTES),
        tls_certificate_sha256=reader.take(HASH_BYTES),
        log_origin=reader.ascii(ORIGIN_BYTES_MAX),
        name=reader.text(NAME_BYTES_MAX),
    )
    reader.end()
    return card


def broker_card_fingerprint(card: BrokerCard) -> bytes:
    """The 32 bytes that an address carries for this card."""
    return sha256(encode_broker_card(card))


def verify_broker_card(card: BrokerCard, address: BrokerAddress) -> None:
    """Raise VerificationFailed unless ``address`` names exactly this card and its keys are usable."""
    if not constant_time_equal(broker_card_fingerprint(card), address.card_sha256):
        raise VerificationFailed("broker_card_mismatch", "the broker's card is not the one its address names")
    check_ed25519_public(card.custody_public)
    check_ed25519_public(card.log_public)
