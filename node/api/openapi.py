"""The document of the local API, OpenAPI 3.1, made from the table of operations and the models alone.

Spec: docs/operations.md#local-api. One rule: nothing is written here by hand that the table or a model says.
"""

from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from node.api.models import PATH_PARTS, Fault
from node.api.operations import OPERATIONS, Operation
from protocol.alert import Alert
from protocol.attachment import PICTURE_TYPES

BASE: Final = "/api/v1"
ONCE_KEY: Final = "Idempotency-Key"
ONCE_KEY_PATTERN: Final = r"^[\x21-\x7e]{1,128}$"
MEDIA_TYPES: Final = {kind: f"image/{kind}" for kind in PICTURE_TYPES}
_REF: Final = "#/components/schemas/{model}"
# No schema: these are bytes as they are, of which JSON Schema has no word to say.
_PICTURE: Final[dict[str, Any]] = {media_type: {} for media_type in MEDIA_TYPES.values()}
_FAULTS: Final = {
    "400": "cannot be read",
    "401": "no token that is known here",
    "403": "this token may not, or a browser asks",
    "404": "nothing of that name",
    "409": "a rule does not allow it",
    "410": "its content was erased",
    "413": "too long",
    "415": "not of a type this operation takes",
    "421": "not an address of this office",
    "422": "not what this operation takes",
    "503": "not now; nothing is lost",
}


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    adapters: dict[str, TypeAdapter[Any]] = {
        operation.name: TypeAdapter(operation.returns)
        for operation in OPERATIONS
        if not operation.gives_picture
    }
    answers, shared = TypeAdapter.json_schemas(
        [(name, "serialization", adapter) for name, adapter in adapters.items()]
        + [("fault", "serialization", TypeAdapter(Fault))],
        ref_template=_REF,
    )
    bodies = [model for operation in OPERATIONS if (model := operation.body) is not None]
    models: list[type[BaseModel]] = [*bodies, Alert]
    sent, sent_shared = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas = {**sent_shared.get("$defs", {}), **shared.get("$defs", {})}
    fault = {"application/json": {"schema": answers[("fault", "serialization")]}}
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        answered = (
            _PICTURE
            if operation.gives_picture
            else {"application/json": {"schema": answers[(operation.name, "serialization")]}}
        )
        described: dict[str, Any] = {
            "operationId": operation.name,
            "summary": operation.summary,
            "description": f"Scope: `{operation.scope}`.",
            "security": [{"token": []}],
            "parameters": _parameters(operation),
            "responses": {
                str(operation.status): {"description": "done", "content": answered},
                **{code: {"description": what, "content": fault} for code, what in _FAULTS.items()},
            },
        }
        if operation.takes_photo:
            described["requestBody"] = {"required": True, "content": _PICTURE}
        if operation.body is not None:
            body = sent[(operation.body, "validation")]
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        paths.setdefault(BASE + operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Salween node",
            "version": version,
            "description": "What a program may do for an officer of this office. Loopback only.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, part in PATH_PARTS.items():
        if f"{{{name}}}" in operation.path:
            schema = TypeAdapter(part).json_schema()
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if operation.query is not None:
        whole = operation.query.model_json_schema(ref_template=_REF)
        found += [
            {"name": name, "in": "query", "required": name in whole.get("required", ()), "schema": schema}
            for name, schema in whole["properties"].items()
        ]
    if operation.is_once:
        found.append(
            {
                "name": ONCE_KEY,
                "in": "header",
                "required": True,
                "description": "The program's own name for this sending: under one name it is sent once.",
                "schema": {"type": "string", "pattern": ONCE_KEY_PATTERN},
            }
        )
    return found
