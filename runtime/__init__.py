"""The ground both daemons stand on: I/O, and no word of the domain.

Reading order:

- ``exits``        exit codes, DiskFailed, and the one map from a failure to a code
- ``env``          clock, randomness, tasks, threads, files, sockets, process: everything nondeterministic
- ``connections``  what one HTTP connection may cost before it has shown anything
- ``broker_line``  the way to a broker's endpoint: its card, and bytes in exchange for bytes
- ``secretfiles``  secrets handed over in a file
- ``configuration``  settings: one TOML file, every fault at once, the environment over it
- ``logs``         operations log: JSON lines, allow-listed fields
- ``sqlite``       encrypted database: pragmas, migrations, group commit; the only importer of apsw
- ``service``      a daemon's life: pid lock, signals, health listener, exit code

Spec: docs/operations.md. Must never import ``audit``, ``broker`` or ``node``. Outside ``env.py`` no file here
(nor in ``broker/`` and ``node/``) touches a clock, randomness, a thread, a file or a socket by itself: the
real daemons run under the simulator of tests/simulation because of that, and tests/support/syntax_rules.py
checks it.
"""
