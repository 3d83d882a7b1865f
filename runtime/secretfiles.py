"""Secrets that a person or a supervisor hands over in a file: passphrases, PINs, tokens.

Spec: docs/operations.md#secrets. One rule: never from an argument or the environment, where other users of
the machine could read them. A systemd credential is such a file: ``--passphrase-file %d/passphrase``.
"""

from typing import Final

from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from runtime.env import AnyPath, Files

SECRET_FILE_BYTES_MAX: Final = 4096


def read_secret_file(files: Files, path: AnyPath) -> SecretBytes:
    """Content of a file only its owner can read, without the line end.

    PolicyRefused ``secret_file_missing``, ``secret_file_too_open``, ``secret_file_empty``.
    """
    if not files.exists(path):
        raise PolicyRefused("secret_file_missing", f"There is no {path}. Check the name.")
    mode = files.mode(path)
    if mode & 0o077:
        raise PolicyRefused(
            "secret_file_too_open", f"{path} has mode {mode:04o}: others could read it. Run: chmod 600 {path}"
        )
    secret = SecretBytes(files.read(path, SECRET_FILE_BYTES_MAX).rstrip(b"\r\n"))
    if not len(secret):
        raise PolicyRefused("secret_file_empty", f"{path} is empty.")
    return secret
