"""The daemon of one office: keeps, sends, receives and shows alerts. I/O lives here, rules live below.

Reading order:

- ``layout``, ``config``, ``setup``  what a directory holds, what an operator may set, how ``init`` makes it
- ``identity``, ``secrets``  who this office is, and the open keystore
- ``peers``, ``receive_keys``, ``one_time``  one paired office inside a transaction, and its keys
- ``outbox``, ``inbox``  record, then act: what leaves and what comes
- ``witness``, ``broker_heads``  partners' logs cosigned by us, ours by them; heads of brokers' logs
- ``cover``  messages about nothing, for who watches the line
- ``broker_witness``  our log cosigned by a broker, where that is switched on
- ``watch``, ``nacks``, ``evidence``  heartbeats and bounds, keys nobody had, what cannot both be true
- ``addresses``, ``mailboxes``  where peers read, and where we do: made, announced, made again, given up
- ``losses``  what brokers lost, for people
- ``broker_link``, ``traffic``  talking to a broker, and what shares a request
- ``sticks``, ``carrying``  what is carried by hand, and from pages
- ``handover``, ``dossiers``  what is given to somebody outside: receipts, dossiers
- ``routes``  the way there: straight, or handed on by our own
- ``reset_keys``, ``resets``  a peer that lost state: what it is told to, and what is sent again
- ``backup``, ``restore``  the backup file, and the ceremonies of the recovery sheet
- ``integrations``  programs that act for an officer, and their tokens
- ``officers``, ``vault``, ``erasure``  who may open what, what is kept sealed until they do, and how it goes
- ``photos``, ``photo_worker``  pictures on their way, and the process that decodes them, one each
- ``full_mailboxes``  which of what waits for a mailbox without room may be tried
- ``halfpairs``, ``partnering``  a pair of which one word is missing, and what every ceremony shares
- ``ceremony``, ``inperson``, ``meetingdesk``  pairing by voice and side by side, and from pages
- ``revocations``, ``paper``  keys that are void: learnt from anyone, made from a recovery sheet
- ``answers``, ``deadlines``, ``ladder``  what is answered, what silence is recorded as, what is shown of it
- ``clock_doubt``  a clock that differs from a broker's
- ``alerts``, ``views``, ``desk``, ``events``  what officers do and are shown, through one interface
- ``daemon``, ``metrics``, ``doctor``  wires it together, counts, and looks for what can be mended
- ``control``, ``verbs``, ``qr``, ``pairtalk``  what a command asks of the daemon, and hears
- ``commands/``, ``__main__``  the commands, a file a subject
- ``web/``  pages
- ``api/``  the local API for programs

Spec: docs/life-of-an-alert.md. Never imports ``broker``; ``node.web`` and ``node.api`` are entered from
``node.daemon`` only.
"""

__version__ = "0.1.0"
