"""Pages of one office, for officers on this machine: rendered here, working without JavaScript.

Reading order: ``desk_api`` (what pages may ask), ``guard`` (who may speak to them), ``app`` (routes and
what surrounds every handler), ``pages`` (the screens), ``forms`` (typed text to Alert, once), ``events``
(something changed), ``messages`` (codes to sentences), ``languages`` and ``show`` (words, times and
foreign text on screens), then ``templates/``, ``static/`` and ``locale/``.

Spec: docs/decisions and ARCHITECTURE.md. Entered from ``node.daemon`` only, through ``app.make_app``.
Never imports ``broker``, the store or a socket.
"""
