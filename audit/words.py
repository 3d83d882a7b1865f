"""What each verdict means and what it does not say: the sentences of reports.

Spec: docs/auditing.md. One rule: every verdict there is has its two sentences here, in words of the page.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Meaning(NamedTuple):
    """One verdict in words."""

    says: str
    not_said: str


MEANINGS: Final[Mapping[str, Meaning]] = {
    # of a log
    "VERIFIED": Meaning(
        "Every entry leads to a checkpoint signed with the key of your policy.",
        "That what was written is true, or that the newest entries were not cut before anybody saw them.",
    ),
    "UNKNOWN-KEY": Meaning(
        "No key of your policy signed this log, so nothing it holds counts.",
        "That the log is wrong: the policy may be of another log.",
    ),
    "BAD-SIGNATURE": Meaning(
        "The key is known and the signature does not hold.", "Who changed the checkpoint."
    ),
    "MALFORMED-ENTRY": Meaning("An entry is not in the form that its writer must use.", "What it once said."),
    "CORRUPT": Meaning(
        "A file does not lead to the signed root.",
        "Whether a fault or a person changed it: see another copy.",
    ),
    "TRUNCATED": Meaning(
        "There is less here than was signed, or than another party has seen.",
        "Who cut it, or that anybody meant it. Where only another log knows more: ask for the checkpoint.",
    ),
    "FORKED": Meaning(
        "One history of this log is told here, and another is signed or named elsewhere.",
        "Which of the two is true. Where only another log names it: ask for the checkpoint that proves it.",
    ),
    "ROLLED-BACK": Meaning(
        "The newest checkpoint is older than what the archive has signed.", "That anybody meant it."
    ),
    "UNWITNESSED-TAIL": Meaning(
        "The last entries are under no checkpoint that the quorum of your policy cosigned.",
        "That anything is wrong with them.",
    ),
    "STALE": Meaning("Nothing in it is as new as you asked for.", "Why it stopped."),
    "CLOCK-SUSPECT": Meaning(
        "Time runs backwards and no step of the clock is declared.", "That anybody meant it."
    ),
    "ACCESS-UNEXPLAINED": Meaning(
        "The accesses to an alert do not form an unbroken chain, or go on after its erasure.",
        "Who looked.",
    ),
    "IMPOSSIBLE-STEP": Meaning(
        "An entry says something that cannot follow what stands before it.", "Which of the two is wrong."
    ),
    "BORDER-MISMATCH": Meaning(
        "The log before a restore is another than this one says it follows.", "Which of the two is wrong."
    ),
    # of a log or a message
    "DECLARED-LOSS": Meaning(
        "An office came back from a backup and says so; what came after the backup may be missing.",
        "That the restore was needed.",
    ),
    "DUPLICATE-ACCEPTED": Meaning(
        "One message was taken in twice.", "Whether it was shown twice to an officer."
    ),
    # of a message
    "CONSISTENT": Meaning(
        "Sealed, and taken in as sealed, at times that fit.",
        "That anybody read it, or that its content is true.",
    ),
    "DUPLICATE-BLOCKED": Meaning(
        "A further copy came and was not taken in.", "Whether it was a resend, a stick or a replay."
    ),
    "REORDERED": Meaning("One sealed later was taken in first; lines do that.", "That anybody meant it."),
    "IN-FLIGHT": Meaning(
        "Not taken in yet, or the log that would show it is not here.", "That it will arrive."
    ),
    "EXPIRED-DECLARED": Meaning("Not taken in, and its sender says that it is over.", "Who was at fault."),
    "NEVER-REACHED-BROKER": Meaning(
        "Sealed, and at no broker whose log is here: no sending is proven.",
        "That the sender lies: an office that was offline writes the same.",
    ),
    "ERASED-BOTH": Meaning(
        "Taken in as sealed, and its content erased at both offices since.",
        "That nobody copied it before, or that no backup holds it.",
    ),
    "HELD-OR-DROPPED-AT-BROKER": Meaning(
        "Taken in by the broker and never handed out, while later ones were.",
        "Whether it was held back or lost.",
    ),
    "LOST-IN-DELIVERY": Meaning(
        "Handed out by the broker's word, and not in the receiver's log.",
        "Which of the two is wrong: nobody signed for it.",
    ),
    "BROKER-OMISSION-PROVEN": Meaning(
        "The broker signed for a place in its own log where the envelope is not.",
        "Whether a fault or a person did it.",
    ),
    "BROKER-OMISSION-CLAIMED": Meaning(
        "The sender names a broker's note that contradicts the broker's log, and it is not proven here.",
        "Which of the two is wrong: ask the sender for the note.",
    ),
    "RECEIVER-OMISSION-PROVEN": Meaning(
        "Deleted at the broker under the mailbox's key, or receipted, and not in the receiver's log.",
        "That the receipt holds: ask the sender for it, its signature is the proof.",
    ),
    "ALTERED-IN-TRANSIT": Meaning(
        "What was received is in no set of sealed envelopes.",
        "Where: without the broker's log, anywhere between.",
    ),
    "UNSOLICITED": Meaning(
        "Taken in under the sender's signature, and the sender's log has none of it.",
        "Whether the sender left it out or its key was used elsewhere.",
    ),
    "BACKDATED": Meaning(
        "Written with a time before another clock could have let it happen.",
        "That anybody meant it: a wrong clock that nobody declared looks the same.",
    ),
    "POSTDATED": Meaning(
        "Written with a time after another clock shows that it had happened.",
        "That anybody meant it: a wrong clock that nobody declared looks the same.",
    ),
    "TIME-CONFLICT": Meaning(
        "Received before it was sealed, with no third clock to say whose is wrong.", "Which of the two."
    ),
    "GAP": Meaning(
        "A log speaks of something about this message that should stand in it and does not.",
        "Who took it out, or whether it was ever written.",
    ),
    "ERASURE-INCOMPLETE": Meaning(
        "Its content was due for erasure, or said to be erased, and one office's log does not show it.",
        "That the content is still there.",
    ),
}


def meaning_of(label: str) -> Meaning:
    """The sentences for a label such as ``CORRUPT(12)``."""
    return MEANINGS[label.partition("(")[0]]


STEPS: Final[Mapping[str, str]] = {
    "msg.submit": "recorded",
    "msg.seal": "sealed, attempt %(att)s, to go by %(via)s",
    "msg.custody": "names the broker's custody note for entry %(idx)s",
    "msg.receipt": "has a receipt: %(step)s",
    "msg.expired": "says that it expired",
    "msg.overdue": "not answered in time: %(code)s",
    "msg.cancel": "withdrawn",
    "msg.recv": "came in: %(verdict)s",
    "att.end": "photo %(n)s: %(verdict)s",
    "rel.author": "signed by its author %(actor).8s",
    "rel.release": "released by %(actor).8s",
    "rel.refuse": "refused by %(actor).8s: %(code)s",
    "rel.emergency": "released in emergency by %(actor).8s: %(code)s",
    "ans.given": "answered by %(actor).8s: %(step)s",
    "acc.read": "read by %(actor).8s for %(purpose)s, access %(k)s",
    "acc.print": "printed by %(actor).8s for %(purpose)s, access %(k)s",
    "acc.export": "exported by %(actor).8s for %(purpose)s, access %(k)s",
    "acc.deny": "access denied to %(actor).8s: %(code)s",
    "content.erased": "content erased",
    "content.held": "content kept: %(code)s",
    "bk.in": "taken in",
    "bk.out": "handed out",
    "bk.ack": "deleted by its recipient",
    "bk.expire": "dropped when its time was over",
    "bk.drop": "dropped: %(code)s",
}
"""One phrase for each step in the life of a message, for a column that says whose it is."""
