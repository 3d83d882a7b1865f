"""Codes to sentences: the only place where an error speaks to an officer.

Spec: docs/spec/errors.md lists the codes. Each sentence says what failed, why as far as it is known, and
what to do next. One rule: a code without a sentence still gets its family's sentence and shows the code,
so that nothing fails in silence. The same table holds the causes shown in the outbox, the banner and the
fields of forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from keys.errors import SalweenError
from node.web.languages import N_, Words
from protocol import codelists

_FAMILIES: Final[Mapping[str, str]] = {
    "malformed": N_("What was sent could not be read, so nothing was done. Reload the page and try again."),
    "verification": N_(
        "A signature or key did not hold, so this was not used. Nothing is lost; tell your"
        " supervisor the code."
    ),
    "policy": N_("A rule does not allow this, so nothing was done. The code below says which rule."),
    "unavailable": N_("This is not possible right now. Nothing is lost; try again in a minute."),
    "invariant": N_(
        "The program found a fault of its own and stopped this step. Your data is kept; tell the"
        " administrator"
        " the code."
    ),
}

MESSAGES: Final[Mapping[str, str]] = {
    # --- logging in ---
    "pin_wrong": N_("Officer or PIN is wrong. Check both and try again; after three tries you have to wait."),
    "officer_locked": N_(
        "Too many wrong PINs, so this officer has to wait. Try again later or ask your supervisor"
        " for a new PIN."
    ),
    "session_ended": N_("You were logged out, or the screen was locked after a quiet time. Log in to go on."),
    "officer_unknown": N_(
        "Officer or PIN is wrong. Check both and try again; after three tries you have to wait."
    ),
    "role_may_not": N_("Your role may read but not write or release alerts. Ask an officer or a supervisor."),
    "officer_key_stale": N_(
        "This PIN opens a key that is no longer used. Ask your supervisor for a new PIN."
    ),
    "login_busy": N_("Too many people are logging in at this moment. Wait a few seconds and try again."),
    # --- pages and requests ---
    "csrf_wrong": N_("This page was too old to be sent. Nothing was done; reload it and try again."),
    "host_unknown": N_(
        "This address is not known here. Open the address that the program printed at its start."
    ),
    "cross_origin": N_(
        "Another page asked for this, so it was refused. If it was you, open the address in a new tab."
    ),
    "origin_missing": N_("The request does not say which page it comes from, so it was refused."),
    "method_refused": N_("This kind of request is not used here."),
    "address_malformed": N_("This address is written in a way that is not used here."),
    "upgrade_refused": N_("This kind of connection is not used here."),
    "content_type_refused": N_("This kind of form is not used here."),
    "body_too_large": N_("Too much was sent at once, so nothing was done. Shorten the text."),
    "body_too_slow": N_("The form arrived too slowly, so nothing was done. Try again."),
    "body_malformed": N_(
        "What was sent could not be read, so nothing was done. Reload the page and try again."
    ),
    "body_unexpected": N_("This kind of request is not used here."),
    "form_in_progress": N_("This alert is already being sent. Look into the outbox."),
    "page_unknown": N_("There is no such page. Use the menu to go on."),
    "too_many_pages": N_("Too many pages of this office are open. Close some tabs and reload."),
    # --- alerts ---
    "alert_unknown": N_("There is no such alert here. It may have been erased, or the address is wrong."),
    # --- photos ---
    "photo_kind": N_("This file is no photo that can be sent. Choose a JPEG or PNG."),
    "photo_pixels": N_("This photo is too large. Make it smaller and choose it again."),
    "photo_too_hard": N_("This photo is too large. Make it smaller and choose it again."),
    "photo_too_large": N_("This photo is too large. Make it smaller and choose it again."),
    "photo_damaged": N_("This photo is damaged. Choose it again from where it was taken."),
    "photo_extra": N_(
        "The other office sent more than a picture, so it is not shown. Ask it to send it again."
    ),
    "attachment_size": N_(
        "What came is not the photo that was signed, so it is not shown. Ask for it again."
    ),
    "attachment_hash": N_(
        "What came is not the photo that was signed, so it is not shown. Ask for it again."
    ),
    "blob_invalid": N_("What came is not the photo that was signed, so it is not shown. Ask for it again."),
    "attachment_padding": N_(
        "What came is not the photo that was signed, so it is not shown. Ask for it again."
    ),
    "attachment_plaintext": N_(
        "What came is not the photo that was signed, so it is not shown. Ask for it again."
    ),
    "photos_too_many": N_("An alert has at most four photos. Leave some out."),
    "photo_gone": N_("This photo is no longer in the form. Choose it again."),
    "photo_unknown": N_("There is no such photo, or it is not here yet. Go back to the alert."),
    "photo_not_here": N_("There is no such photo, or it is not here yet. Go back to the alert."),
    "photo_alert_first": N_("Open the alert first; then its photos are shown."),
    "alert_erased_early": N_(
        "The content of this alert was erased before its date, here by hand or by its sender. Its log entries"
        " remain."
    ),
    "alert_held": N_("This alert is kept beyond its date. End that first, then erase it."),
    "hold_days": N_("Choose a time that ends after its own date, and at most 366 days from today."),
    "hold_none": N_("This alert is not kept beyond its date."),
    "alert_erased": N_("The content of this alert was erased as agreed. Its log entries remain."),
    "alert_expired": N_("This alert expired before it was released. Write it again if it still matters."),
    "reason_needed": N_("This alert concerns a victim. Say why you need to open it; the reason is logged."),
    "draft_gone": N_("This alert no longer waits. Another officer released or discarded it."),
    "not_yours": N_("Only the author or a supervisor may discard this alert."),
    "supervisor_needed": N_("A supervisor has to release this alert."),
    "same_officer": N_(
        "The author cannot be the second officer. Ask another officer to log in and release it."
    ),
    "second_officer_needed": N_("This alert needs a second officer before it leaves."),
    "emergency_reason_needed": N_("Sending without a second officer needs a reason. Write one."),
    "emergency_author": N_("Only the author can send an alert without a second officer."),
    "emergency_not_allowed": N_("This office never sends such an alert with one key. Ask a second officer."),
    "pair_half": N_("Pairing with one of the chosen offices is not finished. Finish it first."),
    "pair_suspended": N_("One of the chosen offices is suspended. Leave it out or ask your supervisor."),
    "pair_held": N_("Your supervisor suspended this partner. Leave it out or ask your supervisor."),
    "pair_retired": N_("This partner is retired. Choose the partner that took its place."),
    "pair_not_held": N_("This partner is not suspended by hand, so there is nothing to resume."),
    "supervisor_only": N_("Only a supervisor may do this. Ask yours."),
    "notice_malformed": N_(
        "There is no whole revocation in this text, or it was damaged on its way. Copy all of it again."
    ),
    "revocation_malformed": N_(
        "There is no whole revocation in this text, or it was damaged on its way. Copy all of it again."
    ),
    "peer_unknown": N_("One of the chosen offices is not a partner of yours. Choose again."),
    "recipient_unknown": N_("One of the chosen offices is not a partner of yours. Choose again."),
    "recipients_none": N_("No office is chosen. Choose who receives the alert."),
    "too_large": N_("The alert is too long to be sent in one piece. Shorten the text."),
    "pair_frozen": N_(
        "The conversation with this office is frozen, so nothing is sent to it. A supervisor speaks with that"
        " office first."
    ),
    "equivocation": N_(
        "This office signed two different messages under one number. Nothing is sent or taken in. Ask it by"
        " telephone whether its computer was copied or put back; then a supervisor lets it go on."
    ),
    "equivocation_previous": N_(
        "This office signed two different messages under one number. Nothing is sent or taken in. Ask it by"
        " telephone whether its computer was copied or put back; then a supervisor lets it go on."
    ),
    "acknowledgement_ahead": N_(
        "This office confirms messages that this computer never sent: this computer may be a copy, or was put"
        " back to an older state. Sending is stopped. Look for the other computer and tell your supervisor."
    ),
    "late_keys": N_(
        "This office sends only what is sealed to keys given up long ago. It may have lost its computer and"
        " be unable to say so. Telephone it, then pair with it again."
    ),
    "reset_waits": N_(
        "This office has not answered yet that ours began again from a backup. What it holds comes back when"
        " it does. If it works and does not answer within a day, telephone it."
    ),
    "reset_untold": N_(
        "This office may be unable to read that ours began again from a backup. If it does not answer within"
        " an hour, telephone it and pair with it again."
    ),
    "reset_refused": N_(
        "This office refused that ours began again: it knows a later key of ours. Tell the person who looks"
        " after this computer; salween-node status says what to do."
    ),
    "reset_foreign": N_(
        "Somebody else began again in the name of our office, with our key. Tell your supervisor at once: the"
        " key has to be revoked."
    ),
    "reset_not_newer": N_(
        "This office says that it began again, under a key that is not new. Nothing was changed. Telephone"
        " it: either it was restored with the wrong number, or somebody has its key."
    ),
    "unknown_keys": N_(
        "This office sends only what another copy of this computer could open. Make sure that your office"
        " runs on one computer only, and tell your supervisor."
    ),
    "no_proof": N_("Nothing proves that this office is there. Alerts may be held back; telephone it."),
    "not_frozen": N_("This conversation is not frozen. Nothing was changed."),
    "handover_role": N_("Only an officer, a supervisor or an auditor may hand anything over."),
    "receipt_not_witnessed": N_("No partner has countersigned this yet. Try again in some minutes."),
    "evidence_role": N_("Only a supervisor or an auditor may take evidence out. Nothing was changed."),
    "answer_code": N_("Choose one of the answers of the list."),
    "answer_before_opening": N_("Nobody here has opened this alert yet. Open it, then answer."),
    "answer_again": N_("Somebody of this office gave this answer already. Reload the alert to see it."),
    "answer_after_outcome": N_("This alert has an outcome already. To correct it, choose another outcome."),
    "answers_too_many": N_("This alert has too many outcomes already. Write a new alert instead."),
    "window_full": N_("Too many alerts wait for the other office to confirm. Try again when it answers."),
    # --- pairing in person ---
    "pairing_supervisor": N_("Only a supervisor may pair offices. Ask one to log in."),
    "pairing_under_way": N_("Another pairing is under way in this office. Finish or end it first."),
    "pairing_expired": N_("The time for this pairing is over. Both offices begin again."),
    "meeting_code_expired": N_("The time for this pairing is over. Both offices begin again."),
    "pairing_aborted": N_("This pairing has ended and nothing more was done. Begin again."),
    "pairing_out_of_turn": N_("This pairing has ended and nothing more was done. Begin again."),
    "meeting_gone": N_("This pairing has ended and nothing more was done. Begin again."),
    "pairing_not_recognised": N_(
        "You did not recognise the other office, so nothing was paired. Begin again."
    ),
    "already_paired": N_("This office is already paired with that one. Nothing was changed."),
    "pairing_bundle_foreign": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "meeting_key_foreign": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "pairing_item_malformed": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "pair_ok_foreign": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "pair_ok_malformed": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "bundle_log_origin": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "bundle_checkpoint": N_(
        "What came from the broker does not fit the two codes, so nothing was paired. Begin again."
    ),
    "meeting_code_malformed": N_("This is not a whole code. Copy the whole line, or read the picture again."),
    "meeting_code_mistyped": N_("This is not a whole code. Copy the whole line, or read the picture again."),
    "meeting_code_version": N_("The program of the other office has another version. Bring both up to date."),
    "meeting_code_own": N_("This is our own code. Read the one on the other screen."),
    "meeting_code_turn": N_(
        "This code does not fit now. One office shows its code first, the other reads it."
    ),
    "meeting_code_foreign": N_(
        "This code answers another one than ours. Let the other office read our code again."
    ),
    "meeting_host_long": N_("The broker’s name is too long for a code. Use its number, or pair by voice."),
    "token_malformed": N_("This is not a whole token. Copy the whole line that the operator gave you."),
    "token_mistyped": N_("This is not a whole token. Copy the whole line that the operator gave you."),
    "token_unknown": N_(
        "The broker does not know this token, or it is used up. Ask its operator for another."
    ),
    "broker_address_malformed": N_("This is not the address of a broker. Copy the whole line."),
    "broker_card_mismatch": N_(
        "Another machine answers in the place of the broker. Do not go on; ask its operator."
    ),
    "mailbox_refused": N_("The broker made no mailbox for this pairing. Ask its operator."),
    # --- carried by hand ---
    "stick_nothing": N_("Nothing waits for this partner: it has signed for everything."),
    "stick_foreign": N_(
        "This is no file of messages, or only its first bytes. Choose a file whose name ends in .slwx, or ask"
        " the other office for a new one."
    ),
    "stick_version": N_(
        "This was made by a newer program than ours. Tell the person who looks after this computer."
    ),
    "stick_count": N_("This file is damaged or was tampered with; nothing was taken in. Ask for a new one."),
    "file_not_chosen": N_("No file was chosen. Put the stick in, choose the file on it, and try again."),
    "frames_too_large": N_(
        "What waits for this partner is too large to be shown as pictures. Carry it on a stick."
    ),
    "frame_foreign": N_(
        "The camera sees a code that is no message. Hold it at the picture of the other office."
    ),
    "frame_version": N_(
        "This was made by a newer program than ours. Tell the person who looks after this computer."
    ),
    "frames_mixed": N_(
        "Some pictures are missing, or belong to another message. Read again, from one screen alone."
    ),
    "frames_missing": N_(
        "Some pictures are missing, or belong to another message. Read again, from one screen alone."
    ),
    "frames_altered": N_(
        "The pictures do not fit together: one was altered. Nothing was taken in. Read again; if it comes"
        " again, use a stick."
    ),
    "showing_gone": N_("Nothing is shown any more: the screen was locked, or it was ended. Begin again."),
    # --- the link and deliveries ---
    "not_paired": N_("This office is not paired with any other yet, so nothing can be sent or received."),
    "broker_dns": N_("The name of the broker cannot be found. Check the network cable and the address."),
    "broker_down": N_("Nothing listens at the address of the broker. Ask its operator."),
    "broker_timeout": N_("The broker does not answer in time. The line may be cut or slow."),
    "broker_unreachable": N_("There is no way to the broker. Check the cable, the radio and the router."),
    "broker_tls": N_("A secure connection to the broker cannot be made. Ask its operator."),
    "broker_wrong_key": N_(
        "Another machine answers in the place of the broker. Do not go on; ask its operator."
    ),
    "broker_clock": N_(
        "The clock of this computer and that of the broker differ too much. Correct the clock."
    ),
    "broker_answer": N_("The broker answered with an error. It is asked again by itself."),
    "broker_busy": N_("The broker is busy and is asked again by itself."),
    "forward_refused": N_(
        "Our own broker does not hand messages on to the other one for us. Ask its operator."
    ),
    "forward_unreachable": N_(
        "Our own broker cannot reach the broker of the other office. It is tried again by itself."
    ),
    "route_missing": N_(
        "No way leads to the broker of the other office. Ask the person who looks after this computer."
    ),
    "broker_lost": N_("The connection to the broker broke. It is made again by itself."),
    "broker_quota": N_("The mailbox of the other office is full. The alert is kept here and tried again."),
    "link_starting": N_("The connection to the broker is being made."),
    "address_lost": N_(
        "The broker no longer knows this office's mailbox. The other office has to announce a new one."
    ),
    "database_present": N_(
        "The broker has a database, so nothing was lost and nothing was done. Move it away only if it cannot"
        " be opened."
    ),
    "file_missing": N_("There is no such file. Check its name and the stick it is on."),
    "file_not_for_us": N_(
        "No key of this office opens this address file. Ask the other office to write a new one."
    ),
    "waiting_link": N_("Waits for the connection to the broker."),
    "waiting_pickup": N_("The broker holds it; the other office has not fetched it yet."),
    # --- the machine ---
    "disk_full": N_(
        "The disk is full, so nothing new can be kept. Free some space, then start the node again."
    ),
    "disk_error": N_("The disk failed. The node stops so that nothing is lost; tell the administrator."),
    "clock_doubt": N_("The clock of this computer may be wrong. Alerts still cross, but times are marked."),
    "disk_low": N_("The disk is nearly full, so nothing new is taken in. Free some space."),
    "log_frozen": N_("The log of this office does not verify. Sending is stopped; tell your supervisor."),
    "log_broken": N_("The log of this office does not verify. Sending is stopped; tell your supervisor."),
    "witness_unwitnessed": N_(
        "UNWITNESSED: for more than a day no partner has witnessed our log. Nobody else could show what was"
        " written here. Make sure that partners are reached, or tell your supervisor."
    ),
    "witness_their_log": N_(
        "We refuse to witness the log of this office: it is not the log that it showed before. Both versions"
        " are kept. Tell your supervisor, and telephone the office."
    ),
    "witness_our_log": N_(
        "This office refuses to witness our log. Tell your supervisor, and telephone the office."
    ),
    "log_rolled_back": N_(
        "The log of this office is older than what others have seen. Sending is stopped; tell your"
        " supervisor."
    ),
    # --- fields of forms ---
    "form_invalid": N_("Some fields need your attention. Nothing you typed is lost."),
    "field_required": N_("Fill this in."),
    "field_choice": N_("Choose one of the list."),
    "reason_unknown": N_("Choose one of the list."),
    "field_unknown": N_("This field is not known."),
    "text_blank": N_("This holds nothing that can be seen."),
    "text_long": N_("This is too long. Shorten it."),
    "text_character": N_("This holds a character that is invisible or turns text around. Remove it."),
    "text_marks": N_("Too many marks are stacked on one letter."),
    "text_not_nfc": N_("This text is not in the usual form. Type it again."),
    "alert_urgency_reason": N_("Immediate needs a reason. Say it in one sentence."),
    "alert_handling_text": N_("H3 needs its condition in words."),
    "alert_vehicle_empty": N_("Say at least one thing about the vehicle."),
    "alert_empty": N_("Write the text of the alert."),
    "alert_expires": N_("The alert must expire after now."),
    "alert_reply_by": N_("An answer can be wanted only before the alert expires."),
    "alert_erase": N_("Erasing cannot come before the alert expires."),
    "alert_erase_late": N_("An alert about a victim is erased after 30 days at the latest."),
    "officer_missing": N_("Choose who you are."),
    "pin_missing": N_("Type your PIN."),
    "pin_wrong_here": N_("The PIN is wrong. Try again."),
    # --- faults of our own ---
    "internal_error": N_(
        "The program found a fault of its own and stopped this step. Your data is kept; tell the"
        " administrator"
        " the code."
    ),
}

_STATUS_OF_CODE: Final[Mapping[str, int]] = {
    "session_ended": 401,
    "pin_wrong": 401,
    "officer_unknown": 401,
    "officer_locked": 429,
    "login_busy": 503,
    "too_many_pages": 503,
    "alert_unknown": 404,
    "form_in_progress": 409,
    "meeting_gone": 409,
    "pairing_under_way": 409,
    "showing_gone": 409,
    "stick_nothing": 409,
    "frames_too_large": 409,
    "draft_gone": 409,
    "answer_again": 409,
    "answer_after_outcome": 409,
    "answer_before_opening": 409,
    "form_invalid": 422,
    "page_unknown": 404,
    "alert_erased": 410,
    "alert_erased_early": 410,
    "alert_held": 409,
    "body_too_large": 413,
    "body_too_slow": 408,
}
_STATUS_OF_FAMILY: Final[Mapping[str, int]] = {
    "malformed": 400,
    "verification": 422,
    "policy": 403,
    "unavailable": 503,
}

# One sentence for both, whatever else the detail says: it must not tell which of the two was wrong.
_DETAIL_HIDDEN: Final = frozenset({"pin_wrong", "officer_unknown", "session_ended"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a screen shows of an error: sentence, stable code, and a detail in English or ''."""

    sentence: Markup
    code: str
    detail: str


def sentence(code: str, words: Words, family: str = "policy") -> Markup:
    """The sentence of a code in the reader's language, or its family's."""
    refusals = codelists.load("refusals")
    if code not in MESSAGES and code in refusals.codes:
        # Crossed the border as a code; its label is kept with the codes, not with our own sentences.
        return escape(refusals.label(code, words.language.tag))
    if code not in MESSAGES and code.startswith("broker_"):
        code = "broker_answer"
    return words.gettext(MESSAGES.get(code, _FAMILIES.get(family, _FAMILIES["invariant"])))


def say(error: SalweenError, words: Words) -> Said:
    """What to tell the officer about ``error``."""
    return Said(
        sentence=sentence(error.code, words, error.family),
        code=error.code,
        detail="" if error.code in _DETAIL_HIDDEN else error.detail,
    )


def status_of(error: SalweenError) -> int:
    """HTTP status of an error: by its code where one says more, else by its family."""
    return _STATUS_OF_CODE.get(error.code, _STATUS_OF_FAMILY.get(error.family, 500))
