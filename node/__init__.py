"""The daemon of one office: keeps, sends, receives and shows alerts. I/O lives here, rules live below.

Reading order:

- ``layout``, ``config``, ``setup``  what a directory holds, what an operator may set, how ``init`` makes it
- ``identity``, ``secrets``  who this office is, and the open keystore
- ``peers``, ``receive_keys``  one paired office inside a transaction, and the keys it seals to
- ``outbox``, ``inbox``  record, then act: what leaves and what comes
- ``broker_link``, ``traffic``  the only socket to a broker, and what shares a request
- ``officers``, ``vault``  who may open what, and what is kept sealed until they do
- ``halfpairs``, ``partnering``  a pair of which one word is missing, and what every ceremony shares
- ``ceremony``, ``inperson``, ``meetingdesk``  pairing by voice and side by side, and from pages
- ``alerts``, ``views``, ``desk``, ``events``  what officers do and are shown, through one interface
- ``daemon``, ``metrics``, ``doctor``  wires it together, counts, and looks for what can be mended
- ``control``, ``verbs``, ``qr``, ``pairtalk``, ``__main__``  commands
- ``web/``  pages

Spec: docs/life-of-an-alert.md. Never imports ``broker``; ``node.web`` is entered from ``node.daemon`` only.
"""

__version__ = "0.1.0"
