"""``node.toml``: what an operator may set, checked whole before anything starts.

Spec: docs/operations.md#configuration. Every fault is named at once with its key. No secret ever stands here.
"""

import tomllib
from pathlib import PurePath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keys.errors import PolicyRefused
from runtime.env import Files

CONFIG_NAME = "node.toml"
CONFIG_BYTES_MAX = 64 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]


class NodeConfig(BaseModel):
    """The settings of one node. Ports: 0 picks a free one. Hosts are loopback on purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    web_port: Port = 7441
    health_port: Port = 7442
    language: str = Field(default="en", pattern=r"^[a-z]{2}(_[A-Z][a-z]{3})?$")
    time_zone: str = Field(default="UTC", max_length=64)
    idle_lock_s: int = Field(default=900, ge=60, le=86_400)
    opened_receipts: bool = True
    log_file: str | None = None


def parse_config(text: str, source: str) -> NodeConfig:
    """Settings from TOML text; PolicyRefused ``config_invalid`` names ``source`` and every fault."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise PolicyRefused("config_invalid", f"{source} is not TOML: {fault}. Correct that line.") from fault
    try:
        return NodeConfig.model_validate(values)
    except ValidationError as faults:
        known = ", ".join(sorted(NodeConfig.model_fields))
        lines = [
            f"{source}:{_line_of(text, str(fault['loc'][0]))} {fault['loc'][0]}: {fault['msg']}"
            for fault in faults.errors()
        ]
        raise PolicyRefused(
            "config_invalid", "; ".join(lines) + f". Known keys: {known}. Correct the file and start again."
        ) from faults


def load_config(files: Files, directory: str) -> NodeConfig:
    """Settings of a node directory; PolicyRefused names what is missing or wrong and what to do."""
    path = str(PurePath(directory) / CONFIG_NAME)
    if not files.exists(path):
        raise PolicyRefused(
            "not_initialised",
            f"{path} does not exist. Make a node there first: salween-node init --dir {directory}",
        )
    data = files.read(path, CONFIG_BYTES_MAX)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise PolicyRefused("config_invalid", f"{path} is not UTF-8 text. Save it as UTF-8.") from fault
    return parse_config(text, path)


def default_config_text(*, web_port: int, health_port: int) -> str:
    """The file ``init`` writes: the two ports, and every other setting as a comment."""
    return (
        "# Settings of this node. No secret belongs here.\n"
        f"web_port = {web_port}        # pages for officers, loopback only; 0 picks a free port\n"
        f"health_port = {health_port}     # /healthz /readyz /metrics, loopback only\n"
        '# language = "en"        # first language of the pages: en my zh_Hans th lo km vi\n'
        '# time_zone = "UTC"      # for example "Asia/Yangon"\n'
        "# idle_lock_s = 900      # an officer is locked out after so long without a touch\n"
        "# opened_receipts = true # tell the sending office when an officer opened its alert\n"
    )


def _line_of(text: str, key: str) -> int:
    """Line number (from 1) where ``key`` is set, 0 when it is not."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.split("=")[0].strip().strip('"') == key:
            return number
    return 0
