"""What an operator may set: ``node.toml``. No secret ever stands here.

Spec: docs/operations.md#configuration. One rule: a value that is not understood stops the start. Environment
variables ``SALWEEN_NODE_<KEY>`` override the file.
"""

from pathlib import PurePath
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from protocol import limits
from runtime.configuration import load_settings
from runtime.env import Files

CONFIG_NAME: Final = "node.toml"
ENV_PREFIX: Final = "SALWEEN_NODE_"

Port = Annotated[int, Field(ge=0, le=65535)]


RECEIPT_SPREAD_S_MAX: Final = 3600


class NodeConfig(BaseModel):
    """The settings of one node. Ports: 0 picks a free one. Hosts are loopback on purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    web_port: Port = 7441
    health_port: Port = 7442
    api_port: Port | None = None
    language: str = Field(default="en", pattern=r"^[a-z]{2}(_[A-Z][a-z]{3})?$")
    idle_lock_s: int = Field(default=900, ge=60, le=86_400)
    opened_receipts: bool = True
    receipt_spread_s: int = Field(default=10, ge=0, le=RECEIPT_SPREAD_S_MAX)
    heartbeat_s: int = Field(default=3600, ge=60, le=86_400)
    cover_mean_s: int = Field(default=0, ge=0, le=86_400)

    @field_validator("cover_mean_s")
    @classmethod
    def _not_without_end(cls, mean_s: int) -> int:
        if 0 < mean_s < limits.COVER_MEAN_S_MIN:
            raise ValueError(f"0 sends none; otherwise at least {limits.COVER_MEAN_S_MIN}")
        return mean_s


def load_config(files: Files, directory: str) -> NodeConfig:
    """Settings of a node directory; PolicyRefused names what is missing or wrong and what to do."""
    advice = f"make a node there first: salween-node init --dir {directory}"
    path = PurePath(directory) / CONFIG_NAME
    return load_settings(NodeConfig, files, path, env_prefix=ENV_PREFIX, advice=advice)


def default_config_text(*, web_port: int, health_port: int) -> str:
    """The file ``init`` writes: the two ports, and every other setting as a comment."""
    return (
        "# Settings of this node. No secret belongs here.\n"
        f"web_port = {web_port}        # pages for officers, loopback only; 0 picks a free port\n"
        f"health_port = {health_port}     # /healthz /readyz /metrics, loopback only\n"
        '# language = "en"        # first language of the pages: en my zh_Hans th lo km vi\n'
        "# idle_lock_s = 900      # an officer is locked out after so long without a touch\n"
        "# opened_receipts = true # tell the sending office when an officer opened its alert\n"
        "# receipt_spread_s = 10   # what is not immediate is receipted together within so many seconds\n"
        "# heartbeat_s = 3600      # a sign of life to each partner; both offices should use the same\n"
        "# cover_mean_s = 0        # messages about nothing, that far apart; doctor tells the cost\n"
    )
