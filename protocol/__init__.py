"""What offices and brokers say to each other: values, formats and rules, without exception pure.

Spec: docs/spec/wire.md, docs/spec/alert.md, docs/spec/envelope.md, docs/spec/conversation.md,
docs/spec/broker.md, docs/spec/attachments.md, docs/spec/stick.md. Files in reading order:

- ``limits``: every size, count and time limit, its unit and its source
- ``wire``: canonical msgpack, written one way and read only that way
- ``codelists``: codes that cross the border, with labels in seven languages
- ``parts``: an attachment as its carriers know it: sizes, capabilities, how far it has come
- ``attachment``: its manifest, its sealing and opening
- ``alert``: what an officer fills in
- ``disclosures``: the alert split into a signed core and values that can be erased one by one
- ``release``: who must sign before an alert may leave; the only maker of a ReleasedAlert
- ``envelope``: the outside of one item, all that a broker sees
- ``items``, ``receipts``: what control messages and receipts hold
- ``receivekeys``: the rotating receive keys of one pair
- ``onetime``: keys for one alert each
- ``conversation``: one peer: sequence, replay, gaps, acknowledgement, reset
- ``delivery``: one outbox item: kept, held, sent again, acknowledged; a table and a pure step
- ``rotation``: our own mailboxes of one pair: made, announced, proven, given up
- ``message``: header, leaf and body: what an office signs
- ``sealing``: a signed message becomes an envelope, and the one function that opens one
- ``stick``, ``frames``: envelopes in a file that is carried by hand, and a small one as pictures
- ``evidence``: proof that an office signed what cannot both be true
- ``requests``, ``mailbox``: what a node asks of a broker, and the broker's own rules
- ``custody``, ``tokens``: the broker's signed word that it holds an item; the operator's permission

Never imports runtime, audit, broker or node; no clock, randomness, file or socket of its own. The broker
imports ``limits``, ``wire``, ``envelope``, ``parts`` and the files of the last two lines, and can reach
neither ``sealing``, ``attachment``, ``alert`` nor ``release``.
"""
