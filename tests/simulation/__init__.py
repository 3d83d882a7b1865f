"""Virtual time, a network in memory and hosts that can be killed: the real daemons run on them unchanged.

Reading order: ``trace`` (what a run was), ``loop`` (time and order), ``network`` (byte streams between
hosts), ``env`` (the world of one host), ``world`` (hosts, kills, the run). Spec: ARCHITECTURE.md, rule 1.

What makes two runs of one seed equal: every choice comes from the seed; tasks and futures hash by number, not
by address; the garbage collector runs at fixed steps; the trace holds events, states and sizes, never
ciphertext.
"""
