"""The local API: what a program of this office may do for an officer, over HTTP on loopback.

Reading order:

- ``models``      what is sent and answered, where it is not a view of the desk already
- ``operations``  the table: method, path, scope, models and the call of the desk behind each
- ``openapi``     the same table as an OpenAPI 3.1 document
- ``app``         around every operation: guard, token, body, errors

Spec: docs/operations.md#local-api. Entered from ``node.daemon`` only; rules are the desk's.
"""
