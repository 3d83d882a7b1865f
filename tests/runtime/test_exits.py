"""Exit codes: one map, in which a bug is never taken for a refusal."""

import errno

import pytest

from keys.errors import (
    BrokenInvariant,
    MalformedInput,
    PolicyRefused,
    SalweenError,
    Unavailable,
    VerificationFailed,
)
from runtime import exits
from runtime.exits import DiskFailed, disk_failure, exit_code_for


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MalformedInput("x"), 2),
        (VerificationFailed("x"), 1),
        (PolicyRefused("x"), 1),
        (Unavailable("x"), 75),
        (BrokenInvariant("x"), 70),
        (DiskFailed("disk_full"), 74),
        (OSError(errno.ENOSPC, "full"), 74),
        (OSError(errno.EIO, "broken"), 74),
        (OSError(errno.ENOENT, "missing"), 70),
        (ValueError(), 70),
        (KeyError(), 70),
        (SystemExit(64), 64),
        (SystemExit(None), 0),
        (SystemExit("words"), 70),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: int) -> None:
    """Families and failing disks by their meaning; everything unexpected is 70, never 1."""
    assert exit_code_for(error) == code


def test_every_family_is_mapped() -> None:
    """A new family cannot be forgotten here."""
    for family in SalweenError.__subclasses__():
        assert exit_code_for(family("x")) in {1, 2, 70, 75}


def test_of_several_errors_the_one_that_explains_most_decides() -> None:
    """A full disk explains what broke beside it; a bug is not hidden behind a refusal, however deep."""
    refused, bug, full = PolicyRefused("x"), ValueError(), DiskFailed("disk_full")
    assert exit_code_for(BaseExceptionGroup("g", [refused, bug])) == exits.INTERNAL
    assert exit_code_for(BaseExceptionGroup("g", [bug, BaseExceptionGroup("h", [full])])) == exits.DISK
    assert exit_code_for(BaseExceptionGroup("g", [Unavailable("x"), refused])) == exits.REFUSED


def test_only_failing_disks_are_disk_failures() -> None:
    """A missing file or a denied one is not the disk's fault."""
    assert disk_failure(OSError(errno.ENOENT, ""), "f") is None
    assert disk_failure(OSError(errno.EACCES, ""), "f") is None
    full, broken = disk_failure(OSError(errno.ENOSPC, ""), "f"), disk_failure(OSError(errno.EIO, ""), "f")
    assert full is not None
    assert full.code == "disk_full"
    assert broken is not None
    assert broken.code == "disk_error"
