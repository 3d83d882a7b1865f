"""TLS with the certificate that the address pins, and nothing in its place."""

from pathlib import Path

import aiohttp
import pytest

from keys.errors import PolicyRefused, VerificationFailed
from protocol.requests import Notices
from runtime.env import TlsPin
from tests.broker.ends import House, an_envelope, command


async def test_the_pinned_certificate_carries_a_conversation(tmp_path: Path) -> None:
    """The card names the certificate, the address names the card: an office needs nothing else."""
    house = await House.build(tmp_path / "broker", tls=True)
    await house.start()
    try:
        async with house.client(tls=True) as office:
            assert office.card.tls_certificate_sha256 != bytes(32)
            mailbox = await office.make_mailbox(await house.token())
            await office.put(mailbox, an_envelope(house.env))
            assert len((await office.list(mailbox)).items) == 1
        await house.restart()
        async with house.client(tls=True) as office:
            assert await office.ask(Notices())
    finally:
        await house.stop()


async def test_another_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    """A wrong pin fails in the handshake, before a byte of a request; plain HTTP gets nothing either."""
    house = await House.build(tmp_path / "broker", tls=True)
    addresses = await house.start()
    try:
        wrong = house.env.network.client_session(tls_pin=TlsPin(certificate_sha256=bytes(32)))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await wrong.get(f"https://127.0.0.1:{addresses.port}/v1")
        await wrong.close()
        plain = house.env.network.client_session()
        with pytest.raises(aiohttp.ClientError):
            await plain.get(f"http://127.0.0.1:{addresses.port}/v1")
        await plain.close()
    finally:
        await house.stop()


async def test_two_brokers_are_told_apart_by_their_cards(tmp_path: Path) -> None:
    """A broker in another's place shows another card, which the address refuses."""
    one = await House.build(tmp_path / "one")
    two = await House.build(tmp_path / "two")
    await one.start()
    await two.start()
    try:
        assert one.addresses is not None
        assert two.addresses is not None
        assert one.addresses.address.card_sha256 != two.addresses.address.card_sha256
        stolen = one.addresses
        two.addresses = type(stolen)(
            address=type(stolen.address)(
                host="127.0.0.1", port=two.addresses.port, card_sha256=stolen.address.card_sha256
            ),
            port=two.addresses.port,
        )
        with pytest.raises(VerificationFailed, match="card"):
            async with two.client():
                pass
    finally:
        await one.stop()
        await two.stop()


async def test_init_off_loopback_without_tls_is_refused(tmp_path: Path) -> None:
    """Such a broker cannot even be made, and nothing is left behind."""
    with pytest.raises(PolicyRefused) as caught:
        await House.build(tmp_path / "broker", host="0.0.0.0", tls=False)
    assert caught.value.code == "tls_required"
    assert not (tmp_path / "broker").exists()


async def test_switching_tls_on_needs_a_certificate(tmp_path: Path) -> None:
    """A broker made without one says how to get it."""
    house = await House.build(tmp_path / "broker")
    config = house.directory / "broker.toml"
    config.write_text(config.read_text().replace("tls = false", "tls = true"))
    with pytest.raises(PolicyRefused) as caught:
        await house.start()
    assert caught.value.code == "tls_certificate_missing"


async def test_listening_elsewhere_later_needs_tls_too(tmp_path: Path) -> None:
    """Changing host in the configuration of a broker without TLS stops its next start."""
    house = await House.build(tmp_path / "broker")
    config = house.directory / "broker.toml"
    config.write_text(config.read_text().replace('host = "127.0.0.1"', 'host = "0.0.0.0"', 1))
    with pytest.raises(PolicyRefused) as caught:
        await house.start()
    assert caught.value.code == "tls_required"
    code, _, err = await command("run", "--dir", house.directory)
    assert (code, "salween-broker init --tls" in err) == (1, True)
