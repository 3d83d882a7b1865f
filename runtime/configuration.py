"""Settings of a daemon: one TOML file under a pydantic model, every fault named at once with its line.

Spec: docs/operations.md#configuration. One rule: a value that is not understood stops the start; nothing is
guessed, ignored or corrected. Environment variables go over the file and are judged by the same rules. The
models, and what their keys mean, are the daemons' own.
"""

import tomllib
from collections.abc import Mapping
from types import new_class
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from keys.errors import MalformedInput, PolicyRefused
from runtime.env import AnyPath, Files

CONFIG_BYTES_MAX: Final = 64 * 1024

Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(
    model: type[Settings], files: Files, path: AnyPath, *, env_prefix: str, advice: str
) -> Settings:
    """Read and check the TOML file at ``path``; a variable ``env_prefix`` + KEY overrides that key.

    PolicyRefused ``not_initialised``, with ``advice`` on how to make the file, or ``config_invalid``, whose
    detail names every fault with its line.
    """
    try:
        raw = files.read(path, CONFIG_BYTES_MAX)
    except FileNotFoundError as error:
        raise PolicyRefused("not_initialised", f"{path} does not exist; {advice}") from error
    except MalformedInput as error:
        raise PolicyRefused("config_invalid", f"{path} cannot be read: {error.detail}") from error
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyRefused("config_invalid", f"{path} is not TOML: {error}; correct that line") from error
    return check_settings(model, values, text, str(path), env_prefix=env_prefix)


def check_settings(
    model: type[Settings], values: Mapping[str, Any], text: str, subject: str, *, env_prefix: str
) -> Settings:
    """The settings in ``values``; ``text`` is searched for the line of each fault, ``subject`` names it."""
    try:
        model.model_validate(values)  # strict on what the file says; the environment is text anyway
        return model.model_validate(_with_environment(model, env_prefix)(**values).model_dump())
    except ValidationError as error:
        faults = "; ".join(
            _fault(model, text, fault["loc"], fault["type"], fault["msg"]) for fault in error.errors()
        )
        raise PolicyRefused(
            "config_invalid", f"{subject}: {faults}. Correct the file and start again."
        ) from error


def _with_environment(model: type[Settings], env_prefix: str) -> type[Settings]:
    """The same fields, with environment variables laid over what the file says."""

    class Sources(BaseSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, init_settings

    config = SettingsConfigDict(extra="forbid", frozen=True, strict=False, env_prefix=env_prefix)
    made = new_class(
        model.__name__, (model, Sources), exec_body=lambda names: names.update(model_config=config)
    )
    return cast(type[Settings], made)


def _fault(
    model: type[BaseModel], text: str, location: tuple[int | str, ...], kind: str, message: str
) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        message = f"unknown key (known keys: {', '.join(model.model_fields)})"
    elif kind == "missing":
        message = "missing"
    else:
        message = message.removeprefix("Value error, ")
    if not key:
        return message
    line = _line_of(text, str(location[0]))
    return f"line {line}, {key}: {message}" if line else f"{key}: {message}"


def _line_of(text: str, key: str) -> int:
    """Line (from 1) where ``key`` is set; 0 when no line does."""
    for number, line in enumerate(text.splitlines(), start=1):
        head = line.strip().lstrip("[").split("=")[0].strip(" \t]\"'")
        if head == key:
            return number
    return 0
