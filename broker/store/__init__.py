"""Where items lie: ``base`` says what a store must promise, ``sqlite`` keeps it in one encrypted file.

``notices`` and ``attachments`` are its parts for what is no item.

Spec: docs/spec/broker.md#store. A store knows hashes of capabilities, never the capabilities, and never
opens an envelope. Must never import ``broker.server``.
"""
