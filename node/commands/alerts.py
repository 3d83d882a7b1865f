"""Commands of alerts: send, release, list, show, answer.

Spec: docs/operations.md#commands.
"""

import base64
import json
from pathlib import PurePath
from typing import Any

import click

from keys.errors import PolicyRefused
from node.commands import terminal
from node.commands.terminal import (
    by_officer,
)
from node.control import Params
from node.verbs import PHOTO_PIECE_BYTES
from protocol import limits
from runtime.env import Env


@click.command()
@by_officer
@click.option("--to", multiple=True, required=True, help="Name or id of a paired office; may be repeated.")
@click.option(
    "--file",
    "file",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="Alert as JSON; - reads standard input.",
)
@click.option(
    "--photo",
    "photos",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True),
    help="A photo, JPEG or PNG, at most 25 MiB; may be repeated up to four times.",
)
@click.option(
    "--mode",
    type=click.Choice(["separate", "shared"]),
    help="To several offices: one by one, or all at once, which shows the broker that they belong together."
    " Without it: one by one to eight or fewer, and whenever two officers must sign.",
)
def send(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    to: tuple[str, ...],
    file: Any,
    photos: tuple[str, ...],
    mode: str | None,
    as_json: bool,
) -> None:
    """Send an alert. What needs a second officer waits for: salween-node pending --release."""
    try:
        alert = json.loads(file.read())
    except ValueError as fault:
        raise click.UsageError(f"--file is not JSON: {fault}") from fault

    async def work(env: Env) -> dict[str, Any]:
        pictures = [env.files.read(photo, limits.PHOTO_BYTES_MAX) for photo in photos]
        params = {"officer": officer, "pin": terminal.pin(env, pin_file), "to": list(to), "alert": alert}
        if pictures:
            params["photos"] = len(pictures)
        if mode is not None:
            params["mode"] = mode

        async def hand_over(event: dict[str, Any]) -> str:
            start = int(event["offset"])
            piece = pictures[int(event["number"])][start : start + PHOTO_PIECE_BYTES]
            return base64.b64encode(piece).decode()

        return await terminal.call(env, directory, passphrase_file, "send", params, answer=hand_over)

    def show(result: dict[str, Any]) -> None:
        if result["state"] == "released":
            click.echo(f"Kept; it leaves as soon as the link allows. Alert {result['alert_id']}")
        else:
            click.echo(f"Signed by you; a second officer must release it. Draft {result['draft_id']}")

    terminal.finish(terminal.run(work), as_json, show)


@click.command()
@by_officer
@click.option("--release", metavar="DRAFT", help="Release this draft as the second officer.")
def pending(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    release: str | None,
    as_json: bool,
) -> None:
    """List what waits for a second officer, or release one."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"officer": officer, "pin": terminal.pin(env, pin_file)}
        if release is not None:
            params["release"] = release
        return await terminal.call(env, directory, passphrase_file, "pending", params)

    def show(result: dict[str, Any]) -> None:
        if release is not None:
            click.echo(f"Released and kept. Alert {result['alert_id']}")
            return
        terminal.table(
            ("Draft", "Author", "Headline"),
            [(r["draft_id"], r["author_alias"], r["headline"]) for r in result["pending"]],
        )

    terminal.finish(terminal.run(work), as_json, show)


def _listing(name: str, help_text: str, columns: tuple[tuple[str, str], ...]) -> click.Command:
    @click.command(name, help=help_text)
    @by_officer
    def command(
        directory: str, passphrase_file: str | None, officer: int, pin_file: str | None, as_json: bool
    ) -> None:
        async def work(env: Env) -> dict[str, Any]:
            return await terminal.call(
                env,
                directory,
                passphrase_file,
                name,
                {"officer": officer, "pin": terminal.pin(env, pin_file)},
            )

        def show(result: dict[str, Any]) -> None:
            terminal.table(
                tuple(t for t, _ in columns), [tuple(str(row[k]) for _, k in columns) for row in result[name]]
            )

        terminal.finish(terminal.run(work), as_json, show)

    return command


inbox = _listing(
    "inbox",
    "List alerts that came in.",
    (("Alert", "alert_id"), ("From", "peer_name"), ("Urgency", "urgency"), ("What", "headline")),
)


outbox = _listing(
    "outbox",
    "List alerts of this office and where each stands.",
    (("Alert", "alert_id"), ("State", "state"), ("What", "headline")),
)


@click.command()
@by_officer
@click.option(
    "--reason", default="duty", show_default=True, help="Why you open it; goes into the access log as a code."
)
@click.option(
    "--save-photos",
    "photos_directory",
    type=click.Path(file_okay=False, exists=True),
    metavar="DIR",
    help="Write its photos here: photo-1.jpg and so on. They are then outside of this program's care.",
)
@click.argument("alert_id")
def show(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    reason: str,
    photos_directory: str | None,
    alert_id: str,
    as_json: bool,
) -> None:
    """Open one alert; the access is logged before the content is."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {
            "officer": officer, "pin": terminal.pin(env, pin_file), "alert_id": alert_id, "purpose": reason,
        }  # fmt: skip
        if photos_directory is None:
            return await terminal.call(env, directory, passphrase_file, "show", params)
        saving = _PhotoSaver(env, photos_directory)
        params["photos"] = True
        found = await terminal.call(env, directory, passphrase_file, "show", params, on_event=saving.take)
        return {**found, "saved": saving.saved}

    terminal.finish(
        terminal.run(work),
        as_json,
        lambda result: click.echo(json.dumps(result, indent=2, ensure_ascii=False)),
    )


class _PhotoSaver:
    """Writes photos as their pieces come, each under its number once it is whole; nothing is overwritten."""

    def __init__(self, env: Env, directory: str) -> None:
        self._env = env
        self._directory = directory
        self._pieces = bytearray()
        self.saved: list[str] = []

    def take(self, event: dict[str, Any]) -> None:
        """One event of the verb ``show``."""
        if event.get("event") != "photo-piece":
            return
        self._pieces += base64.b64decode(event["data"])
        if event["last"]:
            kind = "jpg" if event["type"] == "jpeg" else "png"
            path = str(PurePath(self._directory) / f"photo-{int(event['number']) // 2 + 1}.{kind}")
            if self._env.files.exists(path):
                raise PolicyRefused("photo_exists", f"{path} is there already. Nothing was overwritten.")
            self._env.files.write_atomic(path, bytes(self._pieces))
            self._pieces.clear()
            self.saved.append(path)


@click.command()
@by_officer
@click.argument("alert_id")
@click.option("--assigned", is_flag=True, help="Somebody of this office works on it now.")
@click.option("--outcome", metavar="CODE", help="What came of it, a code of the list of outcomes.")
@click.option("--refuse", metavar="CODE", help="Why this office does nothing about it, a code.")
def answer(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    alert_id: str,
    assigned: bool,
    outcome: str | None,
    refuse: str | None,
    as_json: bool,
) -> None:
    """Answer an alert that came in; its sender sees it as a rung of the ladder."""
    given = [
        (step, code)
        for step, code in (("assigned", "" if assigned else None), ("outcome", outcome), ("refused", refuse))
        if code is not None
    ]
    if len(given) != 1:
        raise click.UsageError("Give one of --assigned, --outcome CODE and --refuse CODE.")
    step, code = given[0]

    async def work(env: Env) -> dict[str, Any]:
        params = {
            "officer": officer,
            "pin": terminal.pin(env, pin_file),
            "alert_id": alert_id,
            "step": step,
            "code": code,
        }
        return await terminal.call(env, directory, passphrase_file, "answer", params)

    terminal.finish(
        terminal.run(work), as_json, lambda _: click.echo("Kept; it leaves as soon as the link allows.")
    )


COMMANDS = (
    send,
    pending,
    inbox,
    outbox,
    show,
    answer,
)
