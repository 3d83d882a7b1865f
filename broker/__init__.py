"""Store and forward: holds sealed envelopes for mailboxes, promises so in writing, and can read nothing.

Reading order:

- ``config``     what an operator may set
- ``setup``      ``init``: a new broker, its configuration written last
- ``identity``   the broker's keys and the card that shows their public halves
- ``store``      ``base``: what a store promises; ``sqlite``: tables, log entries and custody in one commit
- ``arrivals``   waking long polls after a commit
- ``replay``     memory of encapsulations answered
- ``witness``    offices' logs cosigned, for those that ask for it
- ``custody``    signing what a commit made true
- ``forwarder``  handing requests on to other brokers of the operator's list
- ``exchange``   one encapsulated request in, one sealed answer out
- ``server``     the one HTTP endpoint: sizes, times, refusals
- ``control``    the operator's Unix socket: tokens, stats
- ``metrics``    counts
- ``daemon``     ``Broker``: all of it started and stopped in order
- ``setup``      making a new broker
- ``doctor``     what would stop or endanger one
- ``__main__``   ``salween-broker init | run | tokens | withdraw | witnessed | stats | doctor | begin-again``

Spec: docs/spec/broker.md; for operators docs/operations.md. Must never import ``node``, and cannot reach
``protocol.sealing``, ``protocol.alert`` or ``protocol.release``, even indirectly: what cannot be imported
cannot be opened by mistake.
"""
