"""Offices, cards and bundles for tests of keys/: deterministic seeds, plausible values."""

import hashlib
from dataclasses import dataclass

from keys.brokercard import NO_TLS, BrokerAddress, BrokerCard, broker_card_fingerprint
from keys.bundle import Bundle
from keys.card import (
    OfficerEntry,
    Role,
    issue_certificate,
    office_id,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    sign_officer_list,
)
from keys.pairok import ResetKey
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey, XWingPrivateKey
from keys.secret import SecretBytes

NOW_MS = 1_780_000_000_000
YEAR_MS = 365 * 24 * 3600 * 1000


def drawn(name: str, length: int) -> bytes:
    """Bytes that stand for randomness: the same for the same name."""
    return hashlib.shake_256(name.encode()).digest(length)


def composite(name: str) -> CompositePrivateKey:
    """A root or operational key."""
    return CompositePrivateKey.from_seed(SecretBytes(drawn(name, 64)))


def ed25519(name: str) -> Ed25519PrivateKey:
    """An officer, log, witness, custody or mailbox key."""
    return Ed25519PrivateKey.from_seed(SecretBytes(drawn(name, 32)))


def a_broker_card() -> BrokerCard:
    """A broker on the loopback interface."""
    return BrokerCard(
        name="Upper Salween relay",
        request_public=XWingPrivateKey.from_seed(SecretBytes(drawn("broker request", 32))).public_bytes,
        custody_public=ed25519("broker custody").public_bytes,
        log_origin="broker.example/salween",
        log_public=ed25519("broker log").public_bytes,
        tls_certificate_sha256=NO_TLS,
    )


def a_broker_address() -> BrokerAddress:
    """The address that names ``a_broker_card``."""
    return BrokerAddress(host="127.0.0.1", port=7440, card_sha256=broker_card_fingerprint(a_broker_card()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Office:
    """One office with its root and first operational key."""

    name: str
    country: str
    root: CompositePrivateKey
    operational: CompositePrivateKey

    @property
    def id(self) -> bytes:
        """What peers pin."""
        return office_id(self.root.public_bytes)

    def certificate_bytes(
        self, *, key_version: int = 1, operational: CompositePrivateKey | None = None, revoked_below: int = 0
    ) -> bytes:
        """A certificate of this office's root."""
        return issue_certificate(
            self.root,
            key_version=key_version,
            public=(operational or self.operational).public_bytes,
            not_before_ms=NOW_MS,
            not_after_ms=NOW_MS + YEAR_MS,
            revoked_below=revoked_below,
            country=self.country,
            name=self.name,
        )

    @property
    def reset_key(self) -> ResetKey:
        """What a partner seals a reset to."""
        seed = SecretBytes(drawn(f"{self.name} reset", 32))
        return ResetKey(
            key_id=drawn(f"{self.name} reset id", 8), public=XWingPrivateKey.from_seed(seed).public_bytes
        )

    def officer_list_bytes(self, *, list_version: int = 1, key_version: int = 1, officers: int = 2) -> bytes:
        """An officer list signed by the first operational key."""
        return sign_officer_list(
            self.operational,
            office=self.id,
            key_version=key_version,
            list_version=list_version,
            issued_ms=NOW_MS,
            officers=tuple(
                OfficerEntry(
                    number=number,
                    public=ed25519(f"{self.name} officer {number}").public_bytes,
                    role=Role.SUPERVISOR if number == 1 else Role.OFFICER,
                    alias=f"Officer {number}",
                    from_ms=NOW_MS,
                    until_ms=0,
                )
                for number in range(1, officers + 1)
            ),
        )

    def bundle(self) -> Bundle:
        """What this office hands over in a pairing."""
        return Bundle(
            root_public=self.root.public_bytes,
            certificate=parse_certificate_untrusted(self.certificate_bytes()),
            officers=parse_officer_list_untrusted(self.officer_list_bytes()),
            receive_generation=1,
            receive_key_id=drawn(f"{self.name} rk id", 8),
            receive_public=XWingPrivateKey.from_seed(SecretBytes(drawn(f"{self.name} rk", 32))).public_bytes,
            put_secret=SecretBytes(drawn(f"{self.name} put", 32)),
            mailbox_public=ed25519(f"{self.name} mailbox").public_bytes,
            broker_address=a_broker_address(),
            broker_card=a_broker_card(),
            log_origin="myitkyina.example/salween",
            log_public=ed25519(f"{self.name} log").public_bytes,
            witness_name="myitkyina.example/witness",
            witness_public=ed25519(f"{self.name} witness").public_bytes,
            checkpoint=b"myitkyina.example/salween\n0\n\n",
            instance=drawn(f"{self.name} instance", 8),
        )


def an_office(name: str, country: str) -> Office:
    """An office whose keys follow from its name."""
    return Office(
        name=name,
        country=country,
        root=composite(f"{name} root"),
        operational=composite(f"{name} operational"),
    )


MYITKYINA = an_office("Myitkyina BLO", "MM")
TENGCHONG = an_office("Tengchong BLO", "CN")
MALLORY = an_office("Nobody's BLO", "XX")
