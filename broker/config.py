"""What an operator may set: one TOML file, every fault named at once, no secret in it.

Spec: docs/operations.md#broker-configuration. One rule: a value that is not understood stops the start;
nothing is guessed, ignored or corrected. Environment variables ``SALWEEN_BROKER_<KEY>`` override the file.
It opens no socket and reads no key material; whether TLS is needed is decided here, because it depends on
``host`` alone.
"""

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from keys.brokercard import parse_broker_address_untrusted
from keys.errors import MalformedInput, PolicyRefused
from runtime.configuration import check_settings, load_settings
from runtime.env import AnyPath, Env

ENV_PREFIX: Final = "SALWEEN_BROKER_"
PORT_DEFAULT: Final = 7440
HEALTH_PORT_DEFAULT: Final = 7442

_Port = Annotated[int, Field(ge=0, le=65535)]
# Anything a resolver could take, and nothing that could break out of a TOML string or an address.
_HOST_PATTERN: Final = r"^[A-Za-z0-9._:-]*$"


def _check_address(text: str) -> str:
    try:
        return str(parse_broker_address_untrusted(text))
    except MalformedInput as error:
        raise ValueError(error.detail) from error


_Address = Annotated[str, AfterValidator(_check_address)]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class BrokerConfig(BaseModel):
    """The configuration of one broker, checked as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=_HOST_PATTERN)] = "127.0.0.1"
    port: _Port = PORT_DEFAULT  # 0: any free port, kept over restarts
    public_host: Annotated[str, Field(max_length=253, pattern=_HOST_PATTERN)] = (
        ""  # what offices dial; empty: host
    )
    tls: bool = False
    health_port: _Port = HEALTH_PORT_DEFAULT  # loopback; 0: any free port
    network: _Word = "salween"
    name: _Word  # pseudonym of this broker in its log's origin

    forward: dict[_Word, _Address] = {}  # brokers that holders of a forwarding token may reach, by name

    connections_max: Annotated[int, Field(ge=1, le=100_000)] = 1024
    connections_per_peer_max: Annotated[int, Field(ge=1, le=100_000)] = 64
    disk_reserve_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024  # below it puts are refused

    @model_validator(mode="after")
    def _limits_fit(self) -> "BrokerConfig":
        if self.connections_per_peer_max > self.connections_max:
            raise ValueError("connections_per_peer_max must not be larger than connections_max")
        return self

    @property
    def log_origin(self) -> str:
        """Origin of the broker's own log, epoch 1."""
        return f"{self.network}/broker/{self.name}/log1"

    @property
    def dialled_host(self) -> str:
        """The host that stands in the address offices are given."""
        return self.public_host or self.host

    def check_listening(self) -> None:
        """Raise PolicyRefused ``tls_required`` when listening off loopback without TLS."""
        if not self.tls and not is_loopback(self.host):
            raise PolicyRefused(
                "tls_required",
                f"host {self.host} is not a loopback address and tls is off; run"
                " 'salween-broker init --tls' for a certificate and set tls = true, or listen on 127.0.0.1",
            )


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this machine only. A name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(env: Env, path: AnyPath) -> BrokerConfig:
    """Read and check ``path``.

    PolicyRefused ``not_initialised`` or ``config_invalid``, whose detail names every fault with its line.
    """
    advice = "make a broker there first: salween-broker init --dir DIR"
    return load_settings(BrokerConfig, env.files, path, env_prefix=ENV_PREFIX, advice=advice)


def parse_config(values: Mapping[str, Any], text: str, subject: str) -> BrokerConfig:
    """The configuration in ``values``; ``text`` is searched for the line of each fault."""
    return check_settings(BrokerConfig, values, text, subject, env_prefix=ENV_PREFIX)


def render_config(config: BrokerConfig) -> str:
    """The TOML file ``init`` writes: what was chosen, and the defaults as comments."""
    chosen = {"name", "host", "port", "public_host", "tls", "health_port", "network"}
    lines = [
        "# Salween broker. Every key: docs/operations.md#broker-configuration. No secret stands here.",
        "",
    ]
    for key, value in config.model_dump().items():
        if isinstance(value, dict):
            continue  # a table, which must stand last
        line = f"{key} = {_toml(value)}"
        is_default = value == BrokerConfig.model_fields[key].default
        lines.append(f"# {line}" if is_default and key not in chosen else line)
    if config.forward:
        lines += [
            "",
            "[forward]",
            *(f"{name} = {_toml(address)}" for name, address in config.forward.items()),
        ]
    else:
        lines += ["", "# [forward]", '# name = "salween://host:port#fingerprint"']
    return "\n".join(lines) + "\n"


def _toml(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # The patterns above leave no quote, backslash or control character in a string.
    return str(value) if isinstance(value, int) else f'"{value}"'
