"""Every domain-separation label of suite 0x01.

Spec: docs/spec/suite.md#labels. One rule: no label is a prefix of another (a test holds it), so two purposes
can never hash, sign or derive from the same bytes. A label is never reused for a second purpose.
"""

from typing import Final

# Identity and trust
OFFICE_ID: Final = b"salween/v1/office-id"
CERTIFICATE: Final = b"salween/v1/certificate"
REVOCATION: Final = b"salween/v1/revocation"
OFFICER_LIST: Final = b"salween/v1/officer-list"
SAFETY_NUMBER: Final = b"salween/v1/safety-number"

# Pairing
BUNDLE: Final = b"salween/v1/pairing-bundle"
PAIRING_MESSAGE: Final = b"salween/v1/pairing-message"
PAIRING_COMMITMENT: Final = b"salween/v1/pairing-commitment"
PAIRING_REPLY_INFO: Final = b"salween/v1/pairing-reply"
PAIRING_REVEAL: Final = b"salween/v1/pairing-reveal"
PAIRING_TRANSCRIPT: Final = b"salween/v1/pairing-transcript"
PAIRING_CODE: Final = b"salween/v1/pairing-code"
PAIRING_CONFIRMATION: Final = b"salween/v1/pairing-confirmation"
PAIRING_OK: Final = b"salween/v1/pairing-ok"
RENDEZVOUS_SALT: Final = b"salween/v1/rendezvous-salt"
RENDEZVOUS_EXPAND: Final = b"salween/v1/rendezvous-expand"
INVITATION_CHECK: Final = b"salween/v1/invitation-check"
MEETING_CODE: Final = b"salween/v1/meeting-code"
MEETING_CHECK: Final = b"salween/v1/meeting-check"
MEETING_KEY: Final = b"salween/v1/meeting-key"
MEETING_BOTH: Final = b"salween/v1/meeting-both"
MEETING_RENDEZVOUS: Final = b"salween/v1/meeting-rendezvous"
MEETING_BUNDLE: Final = b"salween/v1/meeting-bundle"
MEETING_REPLY: Final = b"salween/v1/meeting-reply"
MEETING_TRANSCRIPT: Final = b"salween/v1/meeting-transcript"

# Keystore
KEYSTORE_HEADER: Final = b"salween/v1/keystore-header"
KEYSTORE_CHECK: Final = b"salween/v1/keystore-check"
KEYSTORE_BODY: Final = b"salween/v1/keystore-body"
OFFICER_SEED: Final = b"salween/v1/officer-seed"
DATABASE_KEY_CHECK: Final = b"salween/v1/database-key-check"

# Backup file
BACKUP_HEADER: Final = b"salween/v1/backup-header"
BACKUP_CHECK: Final = b"salween/v1/backup-check"
BACKUP_PART: Final = b"salween/v1/backup-part"

# One item between two offices
WRAP: Final = b"salween/v1/wrap"
BLOB: Final = b"salween/v1/blob"
BLOB_HASH: Final = b"salween/v1/hash-of-blob"
ATTACHMENT: Final = b"salween/v1/attachment"
ENVELOPE: Final = b"salween/v1/envelope"
HEADER: Final = b"salween/v1/header"
SHARED_HEADER: Final = b"salween/v1/shared-header"
MESSAGE: Final = b"salween/v1/message"
LEAF: Final = b"salween/v1/leaf"
SHARED_LEAF: Final = b"salween/v1/shared-leaf"
SHARED_MESSAGE_ID: Final = b"salween/v1/shared-message-id"
CORE: Final = b"salween/v1/core"
ALERT: Final = b"salween/v1/alert"
DISCLOSURE: Final = b"salween/v1/disclosure"
AUDIENCE: Final = b"salween/v1/audience"
OFFICER_AUTHOR: Final = b"salween/v1/officer-author"
OFFICER_RELEASER: Final = b"salween/v1/officer-releaser"
OFFICER_EMERGENCY: Final = b"salween/v1/officer-emergency"
PIGGYBACK: Final = b"salween/v1/piggyback"
DRAFT: Final = b"salween/v1/draft"
STICK: Final = b"salween/v1/carried-file"
STICK_FRAME: Final = b"salween/v1/carried-frame"
PSEUDONYM: Final = b"salween/v1/pseudonym"

# Between a node and a broker
BROKER_REQUEST: Final = b"salween/v1/broker-request"
BROKER_RESPONSE: Final = b"salween/v1/broker-response"
PUT_CAPABILITY: Final = b"salween/v1/put-capability"
GET_CAPABILITY: Final = b"salween/v1/get-capability"
CREATION_TOKEN: Final = b"salween/v1/creation-token"
FORWARDING_TOKEN: Final = b"salween/v1/forwarding-token"
WITNESS_TOKEN: Final = b"salween/v1/witness-token"
MAILBOX_DELETE: Final = b"salween/v1/mailbox-delete"
MAILBOX_SUCCESSOR: Final = b"salween/v1/mailbox-successor"
MAILBOX_GRANT: Final = b"salween/v1/grant-of-mailbox"
READ_CAPABILITY: Final = b"salween/v1/read-capability"
WRITE_CAPABILITY: Final = b"salween/v1/write-capability"
CUSTODY_NOTE: Final = b"salween/v1/custody-note"
CUSTODY_LEAF: Final = b"salween/v1/custody-leaf"
CUSTODY_TREE: Final = b"salween/v1/custody-tree"

# The start-up self-test
SELF_TEST: Final = b"salween/v1/self-test"

# At rest in a node
TOKEN_CHECK: Final = b"salween/v1/token-check"
API_TOKEN: Final = b"salween/v1/api-token"
API_SEAL: Final = b"salween/v1/officer-key-under-api-token"
VAULT_KEY: Final = b"salween/v1/vault-key"
VAULT_CONTENT: Final = b"salween/v1/vault-content"
VAULT_ASIDE: Final = b"salween/v1/vault-aside"
LOG_ACTOR: Final = b"salween/v1/log-actor"
LOG_COMMITMENT: Final = b"salween/v1/log-commitment"
AUDIT_OPENING: Final = b"salween/v1/audit-opening"
