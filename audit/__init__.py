"""The record that cannot be rewritten quietly: entries, tree, signed checkpoints, verification and replay.

Purpose: what a daemon does is one entry in an append-only Merkle log, committed in the same transaction as
the deed, published as C2SP tiles under a signed checkpoint, and verifiable years later from the files
alone.

Read in this order:

1. ``entry``       canonical JSON entries and the table of entry types           pure
2. ``tree``        RFC 6962 hashing, frontier, tiles, proofs                      pure
3. ``note``        C2SP signed notes, key names and verifier keys                 pure
4. ``checkpoint``  origin, size, root as a signed note; cosignatures              pure
5. ``policy``      whose keys count: the C2SP tlog-policy file                    pure
6. ``proof``       one entry's receipt: the C2SP tlog-proof file                  pure
7. ``receipt``     one event of an alert to hand over: a proof that carries its entry    pure
8. ``witness``     what a witness is asked, how it judges, what it answers         pure
9. ``store``       the writer: appends in the caller's transaction, publishes     the only file with a
   database
10. ``reader``     read-only view of a published directory
11. ``fsck``       is what was published what was signed?  (structure)
12. ``replay``     what did the office know, and when?  (meaning)
13. ``custody``    brokers' notes that an office hands over, verified
14. ``reconcile``  do several logs agree?
15. ``words``      what each verdict means and does not say
16. ``report``     the facts of a report: timelines, accesses, erasures, witnesses
17. ``page``       HTML and SVG that no log can inject anything into               pure
18. ``charts``     inline SVG                                                      pure
19. ``report_page``  the page of a report                                         pure
20. ``statistics``  counts without content, small ones hidden
21. ``statistics_page``  the page of statistics                                   pure
22. ``dossier``    what an office hands to an auditor, and the check that it is whole
23. ``__main__``   ``salween-audit``, every command

``standalone/verify_dossier.py`` checks a dossier again and imports nothing of all this: it travels in each.

Spec: docs/spec/log.md. Formats are C2SP's (signed-note, tlog-checkpoint, tlog-tiles, tlog-cosignature,
tlog-policy, tlog-proof) and RFC 6962's; only the entries are ours.

Must never import: node, broker; and, in everything an auditor runs (all but ``store``), runtime and protocol.
"""
