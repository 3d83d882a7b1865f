"""Pages of one office, for officers on this machine: rendered here, working without JavaScript.

Reading order: ``desk_api`` (what pages may ask), ``guard`` (who may speak to them), ``app`` (routes and
what surrounds every handler), ``visit`` (one request, and how a page becomes an answer), ``pages`` (the
screens), ``pairing_pages`` (pairing in person), ``carry_pages`` (sticks and pictures), ``erase_pages``
(before the date, or beyond) and ``receipt_pages`` (what is handed over), ``forms`` (typed text to Alert,
once), ``sent`` (a form is sent once), ``events`` (something changed), ``messages`` and ``labels`` (codes to
sentences and words),
``describe`` (an alert in words), ``languages`` and ``show`` (catalogues, times), ``foreign`` (text from
elsewhere), then ``templates/``, ``static/`` and ``locale/``.

Spec: docs/threat-model.md (a web site in the officer's browser), docs/operations.md. Entered from
``node.daemon`` only, through ``app.make_app``. Never imports ``broker``, the store or a socket.
"""
