"""Two offices and a broker on one machine: to try by hand, and a story that checks itself.

In reading order:

    stage.py        a temporary directory and the daemons in it: started, watched, killed, cleaned away
    office.py       an office as people meet it: its commands and its pages, nothing of its insides
    ceremony.py     two offices pair by driving both ``pair`` commands, as two people on a telephone would
    playground.py   a broker and two paired offices, to try by hand
    region.py       a broker with offices of its own, which hands on to another
    canary.py       looks for planted bytes in files, in plain and in every form they could hide in
    broker_eyes.py  everything a broker could ever read: its files, its database opened with its own key
    liar.py         what a party publishes that does not play by the rules
    published.py    what three published logs say about the same messages
    telling.py      what the stories have in common
    story.py        what ``--once`` tells and checks, step by step
    restore_story.py  what ``--story restore`` tells: an office loses its computer and comes back
    usb_story.py    what ``--story usb`` tells: the line is cut, a stick carries on, the line returns
    regions_story.py  what ``--story regions`` tells: three offices, two brokers, a photo, hidden recipients
    audit_story.py  what ``--story audit`` tells: each party lies in turn, and what the auditor says
    __main__.py     ``salween-demo``

Spec: docs/operations.md#demo. One rule: the offices are judged from outside, by what their pages, their
commands and their published logs say; no step reads an office's store. Nothing here is used by a daemon.
"""
