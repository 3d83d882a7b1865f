"""Who this office is: its row in the database and the operational key that signs for it."""

from dataclasses import dataclass, field

from keys.card import Certificate, parse_certificate_untrusted
from keys.errors import BrokenInvariant
from keys.primitives import CompositePrivateKey
from node.layout import SecretName
from node.secrets import Secrets
from runtime.sqlite import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One office at one key version."""

    office_id: bytes  # 32
    name: str
    country: str
    root_public: bytes
    certificate: Certificate
    key_version: int
    operational: CompositePrivateKey = field(repr=False)


def load_identity(tx: Snapshot, secrets: Secrets) -> Identity:
    """The identity of an opened node; BrokenInvariant when database and keystore do not belong together."""
    row = tx.one("SELECT office_id, name, country, root_public, certificate, key_version FROM office")
    if row is None:
        raise BrokenInvariant("office_missing", "The database names no office.")
    office_id, name, country, root_public, certificate_bytes, key_version = row
    certificate = parse_certificate_untrusted(certificate_bytes)
    operational = CompositePrivateKey.from_seed(secrets.get(SecretName.operational(key_version)))
    if operational.public_bytes != certificate.public:
        raise BrokenInvariant(
            "keystore_mismatch", "Keystore and database come from different offices or times."
        )
    return Identity(
        office_id=office_id,
        name=name,
        country=country,
        root_public=root_public,
        certificate=certificate,
        key_version=key_version,
        operational=operational,
    )
