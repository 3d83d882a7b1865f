"""The broker's own keys: made once by ``init``, sealed in its keystore, shown to the world as a card.

Spec: docs/spec/keys.md#broker-card. One rule: everything secret of a broker is an entry of one keystore, so
that the directory without its passphrase is worth nothing. The unattended mode keeps that passphrase in a
file of mode 0600 beside it, which protects a copied backup of the other files and nothing more.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from audit.note import NoteSigner
from keys.brokercard import NO_TLS, BrokerAddress, BrokerCard, broker_card_fingerprint, encode_broker_card
from keys.errors import PolicyRefused
from keys.keystore import DEFAULT_KDF, KdfParameters, Keystore
from keys.primitives import Ed25519PrivateKey, XWingPrivateKey
from keys.secret import SecretBytes
from keys.tls import self_signed
from runtime.env import AnyPath, Env, TlsIdentity
from runtime.secretfiles import read_secret_file

KEYSTORE_NAME: Final = "keystore"
UNLOCK_NAME: Final = "unlock"
_REQUEST_SEED: Final = "request/seed"
_CUSTODY_SEED: Final = "custody/seed"
_LOG_SEED: Final = "log/seed"
_DATABASE_KEY: Final = "database/key"
_TLS_CERTIFICATE: Final = "tls/certificate"
_TLS_KEY: Final = "tls/key"
_TLS_HASH: Final = "tls/sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerIdentity:
    """The opened keys of one broker."""

    request_key: XWingPrivateKey
    custody_key: Ed25519PrivateKey
    log_signer: NoteSigner
    database_key: SecretBytes
    tls: TlsIdentity | None
    card: BrokerCard

    @property
    def card_bytes(self) -> bytes:
        """What ``GET /v1`` answers."""
        return encode_broker_card(self.card)

    def address(self, host: str, port: int) -> BrokerAddress:
        """The address offices are given: where, and whose card."""
        return BrokerAddress(host=host, port=port, card_sha256=broker_card_fingerprint(self.card))


def create_identity(
    env: Env, directory: AnyPath, passphrase: SecretBytes, *, with_tls: bool, kdf: KdfParameters = DEFAULT_KDF
) -> None:
    """Draw every key of a new broker into a new keystore. Blocks for the key derivation (0.4 s)."""
    secrets = {
        name: SecretBytes(env.random(32)) for name in (_REQUEST_SEED, _CUSTODY_SEED, _LOG_SEED, _DATABASE_KEY)
    }
    if with_tls:
        certificate = self_signed(
            seed=SecretBytes(env.random(32)),
            serial=env.random(16),
            common_name="salween broker",
            now_ms=env.clock.now_ms(),
        )
        secrets[_TLS_CERTIFICATE] = SecretBytes(certificate.certificate_pem)
        secrets[_TLS_KEY] = certificate.private_key_pem
        secrets[_TLS_HASH] = SecretBytes(certificate.sha256)
    path = PurePath(directory, KEYSTORE_NAME)
    Keystore.create(env.files, path, passphrase, secrets, random=env.random, kdf=kdf)


def open_identity(
    env: Env, directory: AnyPath, passphrase: SecretBytes, *, name: str, log_origin: str, tls: bool
) -> BrokerIdentity:
    """Open the keystore; blocks for the key derivation. PolicyRefused or Unavailable as ``Keystore.open``.

    PolicyRefused ``tls_certificate_missing`` when TLS is configured and the broker was made without.
    """
    store = Keystore.open(env.files, PurePath(directory, KEYSTORE_NAME), passphrase, random=env.random)
    has_certificate = _TLS_HASH in store.names("tls/")
    if tls and not has_certificate:
        raise PolicyRefused(
            "tls_certificate_missing",
            "tls is on, but this broker was made without a certificate;"
            " make a new broker with: salween-broker init --tls",
        )
    request_key = XWingPrivateKey.from_seed(store.get(_REQUEST_SEED))
    custody_key = Ed25519PrivateKey.from_seed(store.get(_CUSTODY_SEED))
    log_key = Ed25519PrivateKey.from_seed(store.get(_LOG_SEED))
    identity = None
    if tls:
        identity = TlsIdentity(
            certificate_pem=store.get(_TLS_CERTIFICATE).reveal(), private_key_pem=store.get(_TLS_KEY)
        )
    return BrokerIdentity(
        request_key=request_key,
        custody_key=custody_key,
        log_signer=NoteSigner(name=log_origin, key=log_key),
        database_key=store.get(_DATABASE_KEY),
        tls=identity,
        card=BrokerCard(
            name=name,
            request_public=request_key.public_bytes,
            custody_public=custody_key.public_bytes,
            log_origin=log_origin,
            log_public=log_key.public_bytes,
            tls_certificate_sha256=store.get(_TLS_HASH).reveal() if tls else NO_TLS,
        ),
    )


def make_unlock_file(env: Env, directory: AnyPath) -> SecretBytes:
    """A random passphrase, kept beside the keystore for a broker that starts without a person."""
    passphrase = env.random(32).hex().encode()
    env.files.write_atomic(PurePath(directory, UNLOCK_NAME), passphrase + b"\n", 0o600)
    return SecretBytes(passphrase)


def read_passphrase(env: Env, directory: AnyPath, passphrase_file: AnyPath | None) -> SecretBytes:
    """The passphrase of the keystore, from the named file or from the broker's own unlock file.

    PolicyRefused as ``runtime.secretfiles.read_secret_file``.
    """
    path = passphrase_file if passphrase_file is not None else PurePath(directory, UNLOCK_NAME)
    return read_secret_file(env.files, path)
