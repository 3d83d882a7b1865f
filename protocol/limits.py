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

# --- items and receipts (docs/spec/items.md, docs/spec/receipts.md) ---
ITEMS_BYTES_MAX: Final = BODY_BYTES_MAX
ITEM_BYTES_MAX: Final = 32_768
ITEMS_PER_MESSAGE_MAX: Final = 64
ITEM_TAG_BYTES_MAX: Final = 16
BROKER_ADDRESS_BYTES_MAX: Final = 320
RECEIPTS_BYTES_MAX: Final = BODY_BYTES_MAX
RECEIPTS_PER_MESSAGE_MAX: Final = 256
CODE_BYTES_MAX: Final = 48
ACTOR_BYTES_MAX: Final = 64

# --- conversation (docs/spec/conversation.md) ---
# Exact in every reader, also in those that keep numbers as binary64.
PAIR_SEQ_MAX: Final = 2**53 - 1
INSTANCES_REMEMBERED_MAX: Final = 8
WINDOW_MESSAGES: Final = 4_096
MAILBOX_TTL_MS: Final = 14 * DAY_MS
OLD_RECEIVE_KEY_TTL_MS: Final = MAILBOX_TTL_MS + 2 * DAY_MS
RECEIVE_KEY_AGE_MS_MAX: Final = 7 * DAY_MS
ANNOUNCEMENT_DELAY_MS_MAX: Final = 1 * HOUR_MS
DELETED_KEY_MEMORY_MS: Final = 60 * DAY_MS
NACK_HASHES_MAX: Final = 32
NACK_INTERVAL_MS: Final = 1 * HOUR_MS
BACKUP_HORIZON_MS: Final = 35 * DAY_MS
HELD_BACKOFF_MS_MIN: Final = 1 * MINUTE_MS
HELD_BACKOFF_MS_MAX: Final = 24 * HOUR_MS
LINK_BACKOFF_MS_MIN: Final = 2 * SECOND_MS
LINK_BACKOFF_MS_MAX: Final = 15 * MINUTE_MS

# --- broker (docs/spec/broker.md) ---
SECRET_BYTES: Final = 32
MAILBOX_ITEMS_MAX: Final = 512
MAILBOX_BYTES_MAX: Final = 64 * 2**20
MAILBOX_RESERVED_ITEMS: Final = 64
MAILBOX_RESERVED_BYTES: Final = 4 * 2**20
RENDEZVOUS_TTL_MS: Final = 15 * MINUTE_MS
LONG_POLL_MS_MAX: Final = 55 * SECOND_MS
DATE_SKEW_MS_MAX: Final = 4 * MINUTE_MS
REPLAY_MEMORY_MS: Final = 10 * MINUTE_MS
REQUEST_BYTES_MAX: Final = 1 * 2**20
EMPTY_ANSWER_BYTES: Final = 256

assert tuple(sorted(ENVELOPE_BUCKETS_BYTES)) == ENVELOPE_BUCKETS_BYTES
assert BLOB_OFFSET_BYTES == 1_257
# One alert to the widest audience, with header and signature, still fits the largest item.
assert BLOB_OFFSET_BYTES + HEADER_FIXED_BYTES + HASH_BYTES + MESSAGE_SIGNATURE_BYTES + BODY_BYTES_MAX < (
    ENVELOPE_BYTES_MAX
)
assert FREE_TEXT_BYTES_MAX < BODY_BYTES_MAX
assert 2**AUDIENCE_DEPTH_MAX >= RECIPIENTS_MAX
assert OLD_RECEIVE_KEY_TTL_MS > MAILBOX_TTL_MS, "an item may lie at the broker as long as its key must live"
assert DELETED_KEY_MEMORY_MS > OLD_RECEIVE_KEY_TTL_MS
assert BACKUP_HORIZON_MS > MAILBOX_TTL_MS
assert REPLAY_MEMORY_MS > 2 * DATE_SKEW_MS_MAX, "a replay outside the memory is refused by its date"
assert REQUEST_BYTES_MAX > ENVELOPE_BYTES_MAX
assert MAILBOX_RESERVED_ITEMS < MAILBOX_ITEMS_MAX
assert MAILBOX_RESERVED_BYTES < MAILBOX_BYTES_MAX
assert MAILBOX_RESERVED_BYTES >= MAILBOX_RESERVED_ITEMS * ENVELOPE_BYTES_MAX
assert LONG_POLL_MS_MAX < MINUTE_MS, "common proxies cut an idle request after one minute"
