"""Short words on screens: states, steps, roles, kinds of log entries.

One rule: a code without a word here is shown as it is, never hidden; a newer log or peer may know more.
"""

from collections.abc import Mapping
from typing import Final

from markupsafe import Markup

from node.views import PhotoView
from node.web.foreign import foreign
from node.web.languages import N_, Words
from node.web.show import Show

_WORDS: Final[Mapping[str, str]] = {
    "kind.vehicle": N_("Vehicle"),
    "kind.person": N_("Person"),
    "kind.text": N_("Free text"),
    "reason.case": N_("for a case I work on"),
    "reason.handover": N_("handing over the shift"),
    "reason.supervision": N_("supervision"),
    "reason.court": N_("for a court"),
    "reason.other": N_("another duty"),
    "urgency.immediate": N_("Immediate"),
    "urgency.expected": N_("Expected"),
    "urgency.future": N_("Future"),
    "role.officer": N_("officer"),
    "role.supervisor": N_("supervisor"),
    "role.auditor": N_("auditor"),
    "role.operator": N_("administrator"),
    "flag.clock_suspect": N_("the sender's clock is in doubt"),
    "flag.stale": N_("arrived after its expiry"),
    "flag.emergency": N_("sent without a second officer"),
    "state.awaiting_release": N_("Waits for a second officer"),
    "at.kept": N_("Kept here"),
    "at.on_broker": N_("At the broker"),
    "at.on_stick": N_("Carried by hand"),
    "at.delivered": N_("Delivered"),
    "at.opened": N_("Opened"),
    "at.refused": N_("Refused"),
    "at.assigned": N_("Taken on"),
    "at.outcome": N_("Outcome known"),
    "at.erased": N_("Erased there"),
    "at.no_reply": N_("No answer in time"),
    "at.expired": N_("Expired"),
    "peer.half": N_("pairing not finished"),
    "peer.active": N_("active"),
    "peer.suspended": N_("suspended"),
    "peer.retired": N_("retired"),
    "peer.frozen": N_("frozen"),
    "link.online": N_("connected"),
    "link.connecting": N_("connecting"),
    "link.backing_off": N_("not connected"),
    "log.ok": N_("in order"),
    "log.rolled_back": N_("older than others have seen"),
    "log.broken": N_("does not verify"),
    "gone.mistake": N_("sent or kept by mistake"),
    "gone.asked": N_("asked for by whom it is about"),
    "gone.ordered": N_("ordered by a court or an authority"),
    "gone.needless": N_("no longer needed"),
    "gone.sender": N_("erased by its sender"),
    "held.court": N_("for a court"),
    "held.inquiry": N_("for an inquiry that is under way"),
    "held.complaint": N_("for a complaint about this office"),
    "witness.nobody": N_("no partner yet"),
    "witness.ok": N_("none is late"),
    "witness.late": N_("late"),
    "witness.unwitnessed": N_("UNWITNESSED"),
    "receipt.submitted": N_("Sent"),
    "receipt.witnessed": N_("Countersigned by a partner"),
    "receipt.delivered": N_("Delivered"),
    "receipt.read": N_("Opened"),
    "receipt.erased": N_("Erased"),
    "witness.refused": N_("the witness refuses"),
    "entry.log.start": N_("Log begun"),
    "entry.log.freeze": N_("Log closed"),
    "entry.log.prune": N_("Old entries removed"),
    "entry.key.rotate": N_("Key changed"),
    "entry.clk.step": N_("Clock changed"),
    "entry.cfg.change": N_("Settings changed"),
    "entry.backup.restore": N_("Backup restored"),
    "entry.audit.export": N_("Log exported"),
    "entry.pair.begin": N_("Pairing begun"),
    "entry.pair.ok": N_("Paired"),
    "entry.peer.suspend": N_("Partner suspended"),
    "entry.peer.resume": N_("Partner resumed"),
    "entry.peer.retire": N_("Partner retired"),
    "entry.peer.freeze": N_("Conversation frozen"),
    "entry.peer.thaw": N_("Conversation goes on"),
    "entry.peer.revoke": N_("Partner's key revoked"),
    "entry.officer.add": N_("Officer added"),
    "entry.officer.retire": N_("Officer retired"),
    "entry.ses.login": N_("Logged in"),
    "entry.ses.fail": N_("Wrong PIN"),
    "entry.ses.lock": N_("Screen locked"),
    "entry.ses.logout": N_("Logged out"),
    "entry.stick.out": N_("Carried by hand"),
    "entry.stick.in": N_("Stick or pictures read"),
    "entry.msg.submit": N_("Alert kept"),
    "entry.msg.seal": N_("Alert sealed for sending"),
    "entry.msg.custody": N_("Broker took it"),
    "entry.msg.receipt": N_("Receipt from the other office"),
    "entry.msg.expired": N_("Expired before delivery"),
    "entry.msg.overdue": N_("Not answered in time"),
    "entry.msg.cancel": N_("Cancelled"),
    "entry.msg.recv": N_("Alert received"),
    "entry.att.end": N_("Photo"),
    "entry.rel.author": N_("Signed by its author"),
    "entry.rel.release": N_("Released"),
    "entry.rel.refuse": N_("Release refused"),
    "entry.rel.emergency": N_("Sent without a second officer"),
    "entry.ans.given": N_("Alert answered"),
    "entry.acc.read": N_("Alert opened"),
    "entry.acc.print": N_("Alert printed"),
    "entry.acc.export": N_("Alert exported"),
    "entry.acc.deny": N_("Access refused"),
    "entry.content.erased": N_("Content erased"),
    "entry.content.held": N_("Erasure held back"),
    "entry.wit.cosigned": N_("Witnessed a log"),
    "entry.wit.refused": N_("Refused to witness a log"),
}
_PHOTO_STATES: Final[Mapping[str, str]] = {
    "coming": N_("Photo %(number)s is on its way: %(done)s of %(size)s KiB are here."),
    "refused": N_("Photo %(number)s was refused and is not shown."),
    "missing": N_("Photo %(number)s did not arrive in time."),
    "whole": N_("Photo %(number)s"),
    "gone": N_("Photo %(number)s is no longer kept here; only the small picture is."),
    "under_way": N_("Photo %(number)s: %(done)s of %(size)s KiB sent"),
    "at_broker": N_("Photo %(number)s: at the broker"),
    "fetched": N_("Photo %(number)s: received by the other office"),
    "ended": N_("Photo %(number)s: not fetched before the alert expired"),
}
_RUNGS: Final[Mapping[str, str]] = {
    "kept": N_("Kept on this computer"),
    "on_broker": N_("Held by the broker, who cannot read it"),
    "on_stick": N_("Carried by hand"),
    "delivered": N_("Delivered: on the disk of %(office)s"),
    "opened": N_("Opened by an officer of %(office)s"),
    "refused": N_("Refused by %(office)s"),
    "assigned": N_("Taken on by an officer of %(office)s"),
    "outcome": N_("Outcome, as %(office)s says"),
    "erased": N_("Erased at %(office)s, which signed for it"),
    "no_reply": N_("No officer of %(office)s answered by the time asked for"),
    "expired": N_("Expired before it was delivered"),
}


def word(group: str, code: str, words: Words) -> Markup:
    """The word for a code of ``group``, or the code itself."""
    known = _WORDS.get(f"{group}.{code}")
    return foreign(code) if known is None else words.gettext(known)


def has_word(group: str, code: str) -> bool:
    """Whether there is a word here for the code."""
    return f"{group}.{code}" in _WORDS


def rung(step: str, office: str, words: Words) -> Markup:
    """One rung of the ladder in words; ``office`` is whose disk and officers it speaks of."""
    known = _RUNGS.get(step)
    return foreign(step) if known is None else words.gettext(known, office=foreign(office))


def photo_state(photo: PhotoView, words: Words, show: Show) -> Markup:
    """Where a photo is, and how much of it, in words."""
    state = "missing" if photo.code == "photo_missing" else "whole" if photo.state == "kept" else photo.state
    return words.gettext(
        _PHOTO_STATES[state],
        number=photo.number // 2 + 1,
        done=show.number(photo.done_bytes // 1024),
        size=show.number(photo.size_bytes // 1024),
    )


def clock_of(clock: str, words: Words) -> Markup:
    """Whose clock a time comes from."""
    if clock == "broker":
        return words.gettext("clock of the broker")
    return words.gettext("clock of %(office)s", office=foreign(clock))
