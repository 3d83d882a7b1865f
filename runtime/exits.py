"""Exit codes of every command and daemon, and the one place that maps a failure to one of them.

Spec: docs/operations.md#exit-codes. An uncaught exception is 70, never 1: a supervisor must be able to tell
"refused" from "broken". 74 and 75 mean "start me again"; 1, 2 and 64 mean "a person must look first".
"""

import errno
from collections.abc import Iterable
from typing import Final

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, Unavailable, VerificationFailed

DONE: Final = 0
REFUSED: Final = 1
UNREADABLE: Final = 2
USAGE: Final = 64
INTERNAL: Final = 70
DISK: Final = 74
TRY_AGAIN: Final = 75

DISK_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_ERROR_ERRNOS: Final = frozenset({errno.EIO, errno.EROFS, errno.ESTALE})


class DiskFailed(Unavailable):
    """The disk refused a write or a read: ``disk_full`` or ``disk_error``.

    Whoever meets it stops the process with exit 74. After a failed fsync the kernel may have dropped the
    pages it could not write, so neither the connection nor a reopened one can tell what is durable; only a
    new process that starts from the bytes on disk can.
    """


def disk_failure(error: OSError, subject: str) -> DiskFailed | None:
    """The DiskFailed that ``error`` stands for, or None when it says something other than a failing disk.

    ``subject`` names the file for people; it never holds content.
    """
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFailed("disk_full", f"no space left to write {subject}; free space, then start again")
    if error.errno in DISK_ERROR_ERRNOS:
        return DiskFailed("disk_error", f"the disk failed on {subject}; check it, then start again")
    return None


def exit_code_for(error: BaseException) -> int:
    """The exit code that says what the caller of the process should do about ``error``."""
    if isinstance(error, BaseExceptionGroup):
        return _worst(exit_code_for(inner) for inner in error.exceptions)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else (DONE if error.code is None else INTERNAL)
    if isinstance(error, DiskFailed):
        return DISK
    if isinstance(error, OSError) and disk_failure(error, "a file") is not None:
        return DISK
    if isinstance(error, MalformedInput):
        return UNREADABLE
    if isinstance(error, (PolicyRefused, VerificationFailed)):
        return REFUSED
    if isinstance(error, BrokenInvariant):
        return INTERNAL
    if isinstance(error, Unavailable):
        return TRY_AGAIN
    return INTERNAL


def _worst(codes: Iterable[int]) -> int:
    # A full disk explains whatever else broke beside it; a bug is never hidden behind a refusal.
    order = (DISK, INTERNAL, UNREADABLE, REFUSED, TRY_AGAIN, USAGE, DONE)
    found = frozenset(codes)
    return next((code for code in order if code in found), INTERNAL)
