"""Who we are and whom we trust: keys, certificates, pairing and the sealed key file.

Spec: docs/spec/keys.md and docs/spec/pairing.md. Files in reading order:

- ``errors``: the five error families every package extends
- ``labels``: every domain-separation label, in one place
- ``secret``: bytes that cannot be printed, copied, pickled or compared by accident
- ``primitives``: suite 0x01; but for ``tls`` the only file that imports cryptography and nacl
- ``known_answers``: the vectors the start-up self-test runs
- ``layout``: the strict reader and writer of the fixed layouts below
- ``card``: office certificates, officer lists, revocations, the safety number
- ``brokercard``: a broker's card and the address that pins it
- ``custodyproof``: the proof inside a broker's custody note
- ``bundle``: what a pairing exchanges
- ``notice``: a revocation with its root key, for whoever knows the office or not: file, pasted text, broker
- ``recovery_sheet``: the root key on paper, written and typed back
- ``trust``: what we know of one peer, and the rules by which that may change
- ``rendezvous``: where a ceremony meets, and the one attempt it has
- ``invitation``, ``pairing``: the by-voice ceremony as a machine, one type per step
- ``meetingcode``, ``inperson``: the ceremony with two screens side by side
- ``pairok``: the signed word that ends both
- ``keystore``: the passphrase-sealed key file; the only file here that asks for I/O
- ``backupfile``: the backup file's header and sealed parts
- ``pin``: an officer's seed, sealed a second time under that officer's PIN
- ``tls``: the self-signed certificate of a broker

Never imports protocol, runtime, audit, broker or node; no clock and no randomness of its own
(the wrap and signature libraries draw theirs).
"""
