"""The commands of ``salween-node``, a file a subject; ``terminal`` is what they share.

Spec: docs/operations.md#commands. One rule: a command asks and tells; what is done is done by ``node.verbs``,
in the daemon when one runs.
"""
