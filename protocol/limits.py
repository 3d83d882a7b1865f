"""Every size, count and time limit of the protocol, each with its unit and where it comes from.

Spec: docs/spec/limits.md. One rule: a limit is written here once, and the relations between limits are
asserted at import. Nothing here is a preference: offices and brokers of one suite agree on all of it.
"""

from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# --- identifiers (docs/spec/envelope.md) ---
OFFICE_ID_BYTES: Final = 32
HASH_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
MESSAGE_ID_BYTES: Final = 16
INSTANCE_BYTES: Final = 8
SALT_BYTES: Final = 16
CORE_SALT_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
XWING_PUBLIC_BYTES: Final = 1216
U16_MAX: Final = 2**16 - 1
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
# The last millisecond of year 9999: later instants have no date to show.
TIME_MS_MAX: Final = 253_402_300_799_999

# --- wire (docs/spec/wire.md): what one decoded value may cost ---
WIRE_DEPTH_MAX: Final = 8
WIRE_ITEMS_MAX: Final = 4_096

# --- envelope (docs/spec/envelope.md): four sizes, so that a size tells almost nothing ---
ENVELOPE_BUCKETS_BYTES: Final = (8_192, 16_384, 32_768, 65_536)
ENVELOPE_BYTES_MAX: Final = ENVELOPE_BUCKETS_BYTES[-1]
LEAF_PLAINTEXT_BYTES: Final = 112
WRAP_BYTES: Final = LEAF_PLAINTEXT_BYTES + 1_136
BLOB_OFFSET_BYTES: Final = 1 + KEY_ID_BYTES + WRAP_BYTES
HEADER_FIXED_BYTES: Final = 154
RECIPIENTS_MAX: Final = 256
HEADER_BYTES_MAX: Final = HEADER_FIXED_BYTES + HASH_BYTES * RECIPIENTS_MAX
MESSAGE_SIGNATURE_BYTES: Final = 3_373
BODY_BYTES_MAX: Final = 59_000

# --- alert (docs/spec/alert.md): lengths in code points and, because scripts differ, in bytes ---
ENTITIES_MAX: Final = 16
REFERENCES_MAX: Final = 32
REASON_POINTS_MAX: Final = 200
REASON_BYTES_MAX: Final = 800
FREE_TEXT_POINTS_MAX: Final = 8_000
FREE_TEXT_BYTES_MAX: Final = 24_000
NAME_POINTS_MAX: Final = 120
NAME_BYTES_MAX: Final = 480
SHORT_POINTS_MAX: Final = 64
SHORT_BYTES_MAX: Final = 192
DESCRIPTION_POINTS_MAX: Final = 1_000
DESCRIPTION_BYTES_MAX: Final = 3_000
# Burmese, Khmer and Tai Tham stack up to about eight marks on one base; a flood is hundreds.
COMBINING_RUN_MAX: Final = 16
DISCLOSURES_MAX: Final = 256
PATH_BYTES_MAX: Final = 64
OFFICER_SIGNATURES_MAX: Final = 4
# Domain: a victim's data goes after 30 days unless renewed; anything else within five years.
VICTIM_ERASE_AFTER_MS_MAX: Final = 30 * DAY_MS
ERASE_AFTER_MS_MAX: Final = 5 * 366 * DAY_MS
AUDIENCE_DEPTH_MAX: Final = 8

# --- clocks: they mark, they never stop the flow (docs/spec/envelope.md#opening) ---
CLOCK_AHEAD_MS_MAX: Final = 10 * MINUTE_MS

# --- conversation (docs/spec/conversation.md) ---
WINDOW_MESSAGES: Final = 4_096
MAILBOX_TTL_MS: Final = 14 * DAY_MS
OLD_RECEIVE_KEY_TTL_MS: Final = MAILBOX_TTL_MS + 2 * DAY_MS
RECEIVE_KEY_AGE_MS_MAX: Final = 7 * DAY_MS
ANNOUNCEMENT_DELAY_MS_MAX: Final = 1 * HOUR_MS
DELETED_KEY_MEMORY_MS: Final = 60 * DAY_MS
NACK_HASHES_MAX: Final = 32
NACK_INTERVAL_MS: Final = 1 * HOUR_MS
# What a peer's nacks may have sealed anew within an hour: one full mailbox.
NACK_RESEALS_PER_HOUR_MAX: Final = 512
# Log entries within an hour, per peer, about bytes that any broker can make or repeat by itself.
UNPROVEN_ENTRIES_PER_HOUR_MAX: Final = 256
# A first outcome and its corrections.
OUTCOMES_PER_DELIVERY_MAX: Final = 8
# An office that was not heard of for so long gets one heartbeat a day: its mailbox must not fill with them.
HEARTBEAT_QUIET_AFTER_MS: Final = 3 * DAY_MS
HEARTBEAT_QUIET_INTERVAL_MS: Final = 1 * DAY_MS
# What a heartbeat may take on its way before two missed intervals are shown: a long poll and two rounds.
HEARTBEAT_SLACK_MS: Final = 5 * MINUTE_MS
# Cover takes this much of a mailbox, and of the window, until the peer says what it has.
COVER_UNACKNOWLEDGED_MAX: Final = 64
COVER_MEAN_S_MIN: Final = 60
BACKUP_HORIZON_MS: Final = 35 * DAY_MS
HELD_BACKOFF_MS_MIN: Final = 1 * MINUTE_MS
HELD_BACKOFF_MS_MAX: Final = 24 * HOUR_MS
LINK_BACKOFF_MS_MIN: Final = 2 * SECOND_MS
LINK_BACKOFF_MS_MAX: Final = 15 * MINUTE_MS

# --- attachments (docs/spec/attachments.md) ---
PHOTOS_PER_ALERT_MAX: Final = 4
PHOTO_BYTES_MAX: Final = 25 * 2**20
PHOTO_PIXELS_MAX: Final = 20_000_000
THUMBNAIL_BYTES_MAX: Final = 24 * 2**10
MANIFEST_BYTES_MAX: Final = 320
# Sizes of a ciphertext: quarter octaves from the first to the last, which holds the largest photo.
ATTACHMENT_BYTES_MIN: Final = 64 * 2**10
ATTACHMENT_BYTES_MAX: Final = 28 * 2**20
ATTACHMENT_PART_BYTES: Final = 256 * 2**10
# A broker keeps each part as it came; a shorter one is taken only as the last.
ATTACHMENT_PART_BYTES_MIN: Final = 1_024
# Beside the quota for items, and never out of it: a photo must not keep an alert out.
MAILBOX_ATTACHMENTS_MAX: Final = 64
MAILBOX_ATTACHMENT_BYTES_MAX: Final = 128 * 2**20
# How long after an answer that brought nothing a part is asked for again.
ATTACHMENT_BACKOFF_MS_MIN: Final = 2 * SECOND_MS
ATTACHMENT_BACKOFF_MS_MAX: Final = 1 * HOUR_MS

# --- broker (docs/spec/broker.md) ---
SECRET_BYTES: Final = 32
MAILBOX_ITEMS_MAX: Final = 512
MAILBOX_BYTES_MAX: Final = 64 * 2**20
MAILBOX_RESERVED_ITEMS: Final = 64
MAILBOX_RESERVED_BYTES: Final = 4 * 2**20
RENDEZVOUS_TTL_MS: Final = 15 * MINUTE_MS
LONG_POLL_MS_MAX: Final = 100 * SECOND_MS
# How often a broker says that it still holds a poll: what lies between closes lines that are silent.
STILL_HELD_MS: Final = 50 * SECOND_MS
DATE_SKEW_MS_MAX: Final = 4 * MINUTE_MS
# A request or an answer that goes inside another: the largest size of the ladder that leaves it room.
FORWARDED_BYTES_MAX: Final = 896 * 2**10
FORWARD_WAIT_MS_MAX: Final = 30 * SECOND_MS
REQUEST_BYTES_MAX: Final = 1 * 2**20
EMPTY_ANSWER_BYTES: Final = 128

assert tuple(sorted(ENVELOPE_BUCKETS_BYTES)) == ENVELOPE_BUCKETS_BYTES
assert BLOB_OFFSET_BYTES == 1_257
# One alert to the widest audience, with header and signature, still fits the largest item.
assert BLOB_OFFSET_BYTES + HEADER_FIXED_BYTES + HASH_BYTES + MESSAGE_SIGNATURE_BYTES + BODY_BYTES_MAX < (
    ENVELOPE_BYTES_MAX
)
assert FREE_TEXT_BYTES_MAX < BODY_BYTES_MAX
assert 2**AUDIENCE_DEPTH_MAX >= RECIPIENTS_MAX
assert HEADER_BYTES_MAX <= U16_MAX, "a message states the length of its header in two bytes"
assert OLD_RECEIVE_KEY_TTL_MS > MAILBOX_TTL_MS, "an item may lie at the broker as long as its key must live"
assert DELETED_KEY_MEMORY_MS > OLD_RECEIVE_KEY_TTL_MS
assert BACKUP_HORIZON_MS > MAILBOX_TTL_MS
assert REQUEST_BYTES_MAX > ENVELOPE_BYTES_MAX
assert FORWARDED_BYTES_MAX + 4_096 < REQUEST_BYTES_MAX
assert FORWARD_WAIT_MS_MAX < LONG_POLL_MS_MAX, "the way on takes time too"
assert MAILBOX_RESERVED_ITEMS < MAILBOX_ITEMS_MAX
assert MAILBOX_RESERVED_BYTES < MAILBOX_BYTES_MAX
assert MAILBOX_RESERVED_BYTES >= MAILBOX_RESERVED_ITEMS * ENVELOPE_BYTES_MAX
assert STILL_HELD_MS < MINUTE_MS, "common proxies cut an idle request after one minute"

# --- items, receipts, conversation, requests, mailbox (docs/spec/conversation.md, docs/spec/broker.md) ---
ED25519_PUBLIC_BYTES: Final = 32
ITEM_BYTES_MAX: Final = 32_768
# Wire integers end at 2**64 - 1; leaving half of it free keeps every sum below it.
PAIR_SEQ_MAX: Final = 2**63 - 1
ITEMS_PER_MESSAGE_MAX: Final = 64
ITEM_TAG_BYTES_MAX: Final = 24
BROKER_ADDRESS_BYTES_MAX: Final = 512
# A receipt is 13 wire values and at most 200 bytes: a full message stays within WIRE_ITEMS_MAX and one body.
RECEIPTS_PER_MESSAGE_MAX: Final = 256
CODE_BYTES_MAX: Final = 48
ACTOR_BYTES_MAX: Final = 64
# A peer's earlier instances whose late items are still told from new ones: one per restore.
RESET_ALERTS_MAX: Final = (
    256  # 11 KB: an answer to a reset lists so many alerts, the newest, and counts the rest
)
INSTANCES_REMEMBERED_MAX: Final = 8
# Service items alone ask for an acknowledgement once this many are unreported, or their window would fill up.
SERVICE_UNREPORTED_MAX: Final = WINDOW_MESSAGES // 4
# With this many old receive keys waiting for holes to close, no further key is made.
OLD_RECEIVE_KEYS_MAX: Final = 256
DELETED_KEYS_REMEMBERED_MAX: Final = 1_024
# One-time keys the peer should have at hand; as many fit one control message of the second size.
ONE_TIME_OFFERED_MAX: Final = 8
# Live and retired ones together, and what one offer may name.
ONE_TIME_KEYS_MAX: Final = 64
# How long the sender waits before it asks again about a put or a question that got no answer.
BROKER_ANSWER_WAIT_MS: Final = 2 * MINUTE_MS
# One item is sealed anew at most this often because the peer's mark passed it.
RESEAL_SPACING_MS: Final = 1 * MINUTE_MS
OPS_PER_REQUEST_MAX: Final = 256
# What the puts of one request become in a broker's memory when envelopes share their blobs.
PUT_BYTES_PER_REQUEST_MAX: Final = 4 * 2**20
# More recipients than these get an alert of their own each only where it must be so, or was chosen.
SEPARATE_RECIPIENTS_MAX: Final = 8
# Sizes of a whole request: the first holds one long poll; above 2 KiB four steps to the octave.
REQUEST_BYTES_MIN: Final = 1_280
POLL_REQUEST_BYTES: Final = 1_536  # a poll of up to four mailboxes
ANSWER_BYTES_MAX: Final = 1 * 2**20
# Envelopes inlined into one answer; the rest of it is for hashes, notes and padding.
INLINE_BYTES_MAX: Final = 960 * 2**10
NOTICES_PER_ANSWER_MAX: Final = 64
NOTICE_BYTES_MAX: Final = 8_192
# Revocations a broker keeps on the word of a mailbox here, and on nobody's: twelve megabytes altogether.
NOTICES_VOUCHED_MAX: Final = 1_024
NOTICES_UNVOUCHED_MAX: Final = 1_024
NOTICES_PER_MAILBOX_MAX: Final = 16  # with those that descend from the same one
# Of offices no mailbox vouches for: what a flood can push out was there for seventeen hours.
NOTICES_UNVOUCHED_PER_HOUR_MAX: Final = 60
PUBLISHES_PER_REQUEST_MAX: Final = 4
BROKER_ORIGIN_BYTES_MAX: Final = 256
LISTED_PER_ANSWER_MAX: Final = 256
TOMBSTONE_TTL_MS: Final = MAILBOX_TTL_MS
# Successors announced and not yet used; more than one only when a recipient lost the secrets of the last.
UNPROVEN_SUCCESSORS_MAX: Final = 4
# Mailboxes at one time that descend from one made with a token: three in use, the rest for lost disks.
LINEAGE_MAILBOXES_MAX: Final = 32
# Each week, up to a day earlier: an address that leaked is good for so long.
MAILBOX_ROTATION_MS: Final = 7 * DAY_MS
MAILBOX_ROTATION_SPREAD_MS: Final = 1 * DAY_MS
# A peer that acknowledged an address and puts nothing there for so long does not use it.
ANNOUNCED_UNUSED_MS: Final = 1 * DAY_MS
# --- witnesses (docs/spec/log.md#witnessing) ---
LOG_SIZE_MAX: Final = 2**53 - 1
KEY_NAME_BYTES_MAX: Final = 120
MLDSA44_PUBLIC_BYTES: Final = 1_312
# A key id, a time and an ML-DSA-44 signature.
COSIGNATURE_BYTES_MAX: Final = 4 + 8 + 2_420
COSIGNATURES_MAX: Final = 4
# A vkey: name, key id, and an ML-DSA-44 key in base64.
WITNESS_KEY_CHARACTERS_MAX: Final = 2_048
# A log that goes on all day asks each of its witnesses so often at most: half the service messages of once a
# minute, and nobody waits for five minutes.
WITNESS_INTERVAL_MS: Final = 2 * MINUTE_MS
# A post-quantum cosignature is 2.4 kB, and every later head covers what an earlier one did.
POST_QUANTUM_INTERVAL_MS: Final = 1 * HOUR_MS
# Twice as many heads as an honest log shows in an hour.
WITNESSED_PER_HOUR_MAX: Final = 60
# Entries that no partner cosigned for so long are shown as late, and then as not witnessed.
WITNESS_LATE_MS: Final = 15 * MINUTE_MS
UNWITNESSED_MS: Final = 24 * HOUR_MS
# --- carried by hand (docs/spec/stick.md): as many as a mailbox holds; a file is read and written whole ---
STICK_ENVELOPES_MAX: Final = MAILBOX_ITEMS_MAX
# --- as pictures: each a QR code of version 15, medium correction; 42 hold two of the smallest envelopes ---
FRAME_BYTES_MAX: Final = 412
FRAMES_MAX: Final = 42
FRAME_SHOWN_MS: Final = 250
RENDEZVOUS_ITEMS_MAX: Final = 8
RENDEZVOUS_BYTES_MAX: Final = RENDEZVOUS_ITEMS_MAX * ENVELOPE_BYTES_MAX

assert ONE_TIME_KEYS_MAX * KEY_ID_BYTES + ONE_TIME_OFFERED_MAX * XWING_PUBLIC_BYTES < BODY_BYTES_MAX
assert ONE_TIME_OFFERED_MAX < ONE_TIME_KEYS_MAX
assert WINDOW_MESSAGES % 8 == 0, "a bitmap of one window is whole bytes"
assert SERVICE_UNREPORTED_MAX < WINDOW_MESSAGES // 2
assert COVER_UNACKNOWLEDGED_MAX < (MAILBOX_ITEMS_MAX - MAILBOX_RESERVED_ITEMS) // 4
assert RECEIPTS_PER_MESSAGE_MAX * 15 + 1 <= WIRE_ITEMS_MAX
assert RECEIPTS_PER_MESSAGE_MAX * (2 * HASH_BYTES + CODE_BYTES_MAX + ACTOR_BYTES_MAX + 48) <= BODY_BYTES_MAX
assert PUT_BYTES_PER_REQUEST_MAX >= 4 * REQUEST_BYTES_MAX
assert SEPARATE_RECIPIENTS_MAX < RECIPIENTS_MAX
assert RECIPIENTS_MAX * HASH_BYTES <= ITEM_BYTES_MAX, "one item names the leaves of the widest audience"
assert BROKER_ANSWER_WAIT_MS > LONG_POLL_MS_MAX
assert RESEAL_SPACING_MS <= HELD_BACKOFF_MS_MIN
assert ENVELOPE_BUCKETS_BYTES[0] > REQUEST_BYTES_MIN
assert EMPTY_ANSWER_BYTES < REQUEST_BYTES_MIN
assert LONG_POLL_MS_MAX // STILL_HELD_MS < EMPTY_ANSWER_BYTES, (
    "what is said meanwhile is told from the answer"
)
assert NOTICES_PER_ANSWER_MAX * NOTICE_BYTES_MAX < INLINE_BYTES_MAX
assert NOTICES_UNVOUCHED_MAX > 12 * NOTICES_UNVOUCHED_PER_HOUR_MAX, "every office asks once in that time"
assert MAILBOX_ROTATION_SPREAD_MS < MAILBOX_ROTATION_MS < MAILBOX_TTL_MS
assert RENDEZVOUS_TTL_MS < MAILBOX_TTL_MS
assert STICK_ENVELOPES_MAX * (ENVELOPE_BYTES_MAX + 64) < 64 * 2**20, "a file is written in one piece"
assert ATTACHMENT_PART_BYTES < INLINE_BYTES_MAX < REQUEST_BYTES_MAX
assert PHOTO_BYTES_MAX < ATTACHMENT_BYTES_MAX < MAILBOX_ATTACHMENT_BYTES_MAX
assert THUMBNAIL_BYTES_MAX < ATTACHMENT_BYTES_MIN
assert 2 * PHOTOS_PER_ALERT_MAX * (MANIFEST_BYTES_MAX + PATH_BYTES_MAX + SALT_BYTES) < BODY_BYTES_MAX // 10
