"""The daemon of one office: keeps, sends, receives and shows alerts. I/O lives here, rules live below.

Reading order: ``config`` and ``setup`` (what a directory holds, how it is made), ``store`` (every table),
``peers`` (one paired office inside a transaction), ``outbox`` and ``inbox`` (record, then act),
``broker_link`` (the only socket to a broker), ``officers`` and ``vault`` (who may open what), ``ceremony``
(pairing), ``alerts`` and ``desk`` (what officers do), ``daemon`` (wires it together), ``control`` and
``__main__`` (commands), ``web/`` (pages).

Spec: docs/life-of-an-alert.md. Never imports ``broker``; ``node.web`` is entered from ``node.daemon`` only.
"""

__version__ = "0.1.0"
