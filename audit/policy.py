"""Whose keys count: the C2SP tlog-policy file, and checkpoints judged by it.

Spec: C2SP tlog-policy; docs/spec/log.md#policy. Lines ``log <vkey> [<url>]``, ``witness <name> <vkey>
[<url>]``, ``group <name> any|all|<k> <name>...``, ``quorum <name>|none``; ``#`` begins a comment line.

One rule: keys come from a policy that the verifier brought, never from the directory under audit. Names of
groups and witnesses are opaque octets that mean nothing outside the file.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from audit.checkpoint import Checkpoint, parse_checkpoint_untrusted
from audit.note import (
    COSIGNATURES,
    TYPE_ED25519,
    Verified,
    VerifierKey,
    parse_vkey_untrusted,
    verify_note,
)
from keys.errors import MalformedInput, VerificationFailed

POLICY_BYTES_MAX: Final = 65_536
LINES_MAX: Final = 1024
QUORUM_NONE: Final = "none"
_OCTETS: Final = re.compile(rb"[\t\n\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """At least ``threshold`` of ``members``, each a witness or an earlier group."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Keys of logs and of named witnesses, and which cosignatures a checkpoint needs."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str

    def reaches_quorum(self, cosigners: Collection[str]) -> bool:
        """Whether cosignatures of these witnesses, named as in the policy, are enough."""
        reached = set(cosigners)
        # A group only names what stands before it, so one pass in file order settles all of them.
        for name, group in self.groups.items():
            if sum(member in reached for member in group.members) >= group.threshold:
                reached.add(name)
        return self.quorum == QUORUM_NONE or self.quorum in reached

    def encode(self) -> bytes:
        """The file that parse_policy_untrusted reads back as this policy."""
        lines = [f"log {key.encode()}" for key in self.logs]
        lines += [f"witness {name} {key.encode()}" for name, key in self.witnesses.items()]
        for name, group in self.groups.items():
            lines.append(f"group {name} {group.threshold} {' '.join(group.members)}")
        lines.append(f"quorum {self.quorum}")
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def single_log_policy(key: VerifierKey) -> Policy:
    """One log, no witness required: what an office writes for its own log before anybody cosigns it."""
    return Policy(logs=(key,), witnesses={}, groups={}, quorum=QUORUM_NONE)


def parse_policy_untrusted(data: bytes) -> Policy:
    """Read a policy file. MalformedInput ``bad_policy`` names the line."""
    if len(data) > POLICY_BYTES_MAX:
        raise MalformedInput("bad_policy", f"{len(data)} bytes, more than {POLICY_BYTES_MAX}")
    if _OCTETS.fullmatch(data) is None:
        raise MalformedInput("bad_policy", "control characters other than tab and newline")
    if data and not data.endswith(b"\n"):
        raise MalformedInput("bad_policy", "the last line has no newline: cut off?")
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if len(lines) > LINES_MAX:
        raise MalformedInput("bad_policy", f"more than {LINES_MAX} lines")
    reading = _Reading()
    for number, line in enumerate(lines, start=1):
        words = [word for word in re.split("[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reading.take(words)
        except MalformedInput as error:
            raise MalformedInput("bad_policy", f"line {number}: {error.detail}") from error
    return reading.finish()


class _Reading:
    """A policy while its lines are read."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None

    def take(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self.logs.append(self._new_key(vkey, {TYPE_ED25519}, self.logs))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                key = self._new_key(vkey, COSIGNATURES, self.witnesses.values())
                self.witnesses[self._new_name(name)] = key
            case ["group", name, threshold, *members] if members:
                group = self._group(threshold, members)
                self.groups[self._new_name(name)] = group
            case ["quorum", name]:
                if self.quorum is not None:
                    raise MalformedInput("bad_policy", "a second quorum line")
                if name != QUORUM_NONE:
                    self._known(name)
                self.quorum = name
            case _:
                raise MalformedInput("bad_policy", "not a log, witness, group or quorum line")

    def finish(self) -> Policy:
        if self.quorum is None:
            raise MalformedInput("bad_policy", "no quorum line")
        return Policy(logs=tuple(self.logs), witnesses=self.witnesses, groups=self.groups, quorum=self.quorum)

    def _new_key(self, vkey: str, kinds: Collection[int], others: Collection[VerifierKey]) -> VerifierKey:
        key = parse_vkey_untrusted(vkey)
        if key.type_byte not in kinds:
            raise MalformedInput("bad_policy", f"signature type {key.type_byte} has no place here")
        if any(key.public == other.public for other in others):
            raise MalformedInput("bad_policy", "this key is listed twice")
        return key

    def _new_name(self, name: str) -> str:
        if name == QUORUM_NONE or name in self.witnesses or name in self.groups:
            raise MalformedInput("bad_policy", "this name is taken")
        return name

    def _known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise MalformedInput("bad_policy", "a name that no earlier line defines")

    def _group(self, threshold: str, members: list[str]) -> Group:
        for member in members:
            self._known(member)
        taken = {member for group in self.groups.values() for member in group.members}
        if len(set(members)) != len(members) or taken & set(members):
            raise MalformedInput("bad_policy", "a name is a member twice, so it would count twice")
        if threshold in ("any", "all"):
            count = 1 if threshold == "any" else len(members)
        elif re.fullmatch("[1-9][0-9]{0,3}", threshold) and int(threshold) <= len(members):
            count = int(threshold)
        else:
            raise MalformedInput("bad_policy", "a threshold is any, all, or a number of members")
        return Group(threshold=count, members=tuple(members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigner:
    """A witness of the policy that cosigned, and when it says it did (POSIX seconds)."""

    name: str
    time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """A checkpoint whose log signature holds, with its valid cosignatures; ``quorum`` as the policy asks."""

    checkpoint: Checkpoint
    cosigners: tuple[Cosigner, ...]
    quorum: bool


def open_checkpoint_untrusted(data: bytes, policy: Policy) -> SignedHead:
    """Parse and authenticate a checkpoint under the policy. Quorum is reported, not enforced.

    MalformedInput ``bad_note`` or ``bad_checkpoint``. VerificationFailed ``bad_signature``, or
    ``unknown_key`` when no log of the policy signed it: the key's name must be the checkpoint's origin.
    """
    checkpoint, note = parse_checkpoint_untrusted(data)
    verified = verify_note(note, [*policy.logs, *policy.witnesses.values()])
    by_key = {key.public: name for name, key in policy.witnesses.items()}
    if not any(_is_log_of(signature, checkpoint) for signature in verified):
        raise VerificationFailed("unknown_key", f"no key of the policy signed for {checkpoint.origin}")
    cosigners = tuple(
        Cosigner(name=by_key[signature.key.public], time_s=signature.time_s)
        for signature in verified
        if signature.time_s is not None
    )
    return SignedHead(
        checkpoint=checkpoint,
        cosigners=cosigners,
        quorum=policy.reaches_quorum([cosigner.name for cosigner in cosigners]),
    )


def _is_log_of(signature: Verified, checkpoint: Checkpoint) -> bool:
    return signature.time_s is None and signature.key.name == checkpoint.origin
