"""The configuration: every fault named at once, nothing guessed."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import BrokerConfig, is_loopback, load_config, parse_config, render_config
from keys.errors import PolicyRefused
from runtime.env import real_env


def load(tmp_path: Path, text: str | bytes) -> BrokerConfig:
    path = tmp_path / "broker.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(real_env(), path)


def refusal(tmp_path: Path, text: str | bytes) -> PolicyRefused:
    with pytest.raises(PolicyRefused) as caught:
        load(tmp_path, text)
    return caught.value


def test_what_init_writes_is_read_back() -> None:
    """A rendered configuration is the configuration."""
    config = BrokerConfig(name="salween-east", host="::1", port=0, tls=True, public_host="broker.example")
    text = render_config(config)
    assert parse_config(tomllib.loads(text), text, "it") == config


def test_every_fault_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    """Unknown key, wrong type, out of range: one message, each with where it stands."""
    error = refusal(tmp_path, 'name = "b"\nprot = 7440\nport = "7440"\n\nconnections_max = 0\ntls = 1\n')
    assert error.code == "config_invalid"
    for part in ("line 2, prot: unknown key", "line 3, port", "line 5, connections_max", "line 6, tls"):
        assert part in error.detail
    assert "known keys: host, port" in error.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name: missing"),
        ("name = \n", "is not TOML"),
        ('name = "a"\nname = "b"\n', "is not TOML"),
        (b"\xff\xfename", "is not TOML"),
        ('name = "Upper"\n', "line 1, name"),
        ('name = "b"\nport = 65536\n', "line 2, port"),
        ('name = "b"\nhost = "a\\nb"\n', "line 2, host"),
        ('name = "b"\nconnections_max = 8\n', "connections_per_peer_max must not be larger"),
        ('[broker]\nname = "b"\n', "line 1, broker: unknown key"),
    ],
)
def test_a_configuration_that_is_not_understood_stops_the_start(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    """Each fault says what it is and where."""
    assert says in refusal(tmp_path, text).detail


def test_a_missing_configuration_names_init(tmp_path: Path) -> None:
    """The next command is in the message."""
    with pytest.raises(PolicyRefused, match="salween-broker init") as caught:
        load_config(real_env(), tmp_path / "broker.toml")
    assert caught.value.code == "not_initialised"


def test_the_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is judged by the same rules."""
    monkeypatch.setenv("SALWEEN_BROKER_PORT", "9000")
    assert load(tmp_path, 'name = "b"\nport = 7440\n').port == 9000
    monkeypatch.setenv("SALWEEN_BROKER_PORT", "many")
    assert "port" in refusal(tmp_path, 'name = "b"\nport = 7440\n').detail


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "broker.example", "127.0.0.1.example"])
def test_off_loopback_needs_tls(host: str) -> None:
    """Nothing listens where others can reach it without a certificate the address pins."""
    assert not is_loopback(host)
    with pytest.raises(PolicyRefused) as caught:
        BrokerConfig(name="b", host=host).check_listening()
    assert caught.value.code == "tls_required"
    BrokerConfig(name="b", host=host, tls=True).check_listening()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    """On one machine a demo or a test runs in the clear."""
    BrokerConfig(name="b", host=host).check_listening()


@given(
    st.dictionaries(st.text(max_size=12), st.integers() | st.text(max_size=12) | st.booleans(), max_size=4)
)
def test_any_table_is_a_configuration_or_a_refusal(values: dict[str, int | str | bool]) -> None:
    """No content of the file raises anything else."""
    with contextlib.suppress(PolicyRefused):
        assert parse_config(values, "", "it").name == values["name"]
