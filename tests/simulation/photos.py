"""Photos in random schedules: what officers hand in, and what must become of it.

The worker process is the real one. Pictures are few and made once, and so is what the worker makes of them.
Choices are drawn apart: a seed that found something before there were photos plays on as it did then.
"""

import functools
import io
import random
from collections.abc import Sequence
from typing import Final

from PIL import Image

from keys.errors import PolicyRefused, SalweenError
from node import photos
from node.views import AlertRow
from runtime.env import run_child
from tests.node.pictures import opened
from tests.simulation.checkers import Broken, Witness
from tests.simulation.daemons import OfficeHost

SCHEDULES: Final = 0.4  # share of all in which photos are sent
ALERTS: Final = 0.3  # share of alerts with photos, in these
LOOKS: Final = 0.3  # after how many looks at a list an officer opens an alert for its photos
KINDS: Final = (("JPEG", 90), ("JPEG", 300), ("PNG", 420))  # and sides: the last one travels in three parts


@functools.cache
def pictures() -> tuple[tuple[bytes, bytes], ...]:
    """(what an officer hands in, what the worker makes of it): the second is what recipients must see."""
    made: list[tuple[bytes, bytes]] = []
    for kind, side in KINDS:
        noise = random.Random(f"picture/{kind}/{side}").randbytes(3 * side * side)
        file = io.BytesIO()
        Image.frombytes("RGB", (side, side), noise).save(file, kind)
        answer = run_child(
            photos.WORKER,
            b"make\n" + file.getvalue(),
            wall_seconds=photos.WORKER_SECONDS,
            answer_bytes_max=photos.WORKER_ANSWER_BYTES_MAX,
        )
        assert answer is not None
        line, _, rest = answer.partition(b"\n")
        made.append((file.getvalue(), rest[: int(line.split()[2])]))
    return tuple(made)


class Photographers:
    """Officers of one schedule who send photos, and look at those that came."""

    def __init__(self, seed: int, witness: Witness) -> None:
        # By this word none of the seeds of BROKEN_BEFORE gets photos: they play what they found.
        self._choices = random.Random(f"schedule/{seed}/shots")
        self._witness = witness
        self.is_at_work = self._choices.random() < SCHEDULES

    async def hand_in(self, office: OfficeHost) -> tuple[list[str], list[bytes]]:
        """Names of photos in the officer's form, and what each recipient must see; most often none."""
        names: list[str] = []
        remade: list[bytes] = []
        if not self.is_at_work or self._choices.random() >= ALERTS:
            return names, remade
        life = office.host.lives
        for picture, made in self._choices.sample(pictures(), self._choices.randint(1, 2)):
            try:
                names.append(await office.stage_photo(picture))
            except PolicyRefused:
                break  # too many in forms that a crash closed, a full disk, or a session that ended
            except SalweenError as error:
                if office.host.lives != life or office.host.life is None:
                    return [], []
                raise Broken("I12", f"{office.name} could not take a photo: {error.code}") from error
            remade.append(made)
        return names, remade

    async def look(self, office: OfficeHost, inbox: Sequence[AlertRow]) -> None:
        """Now and then an officer opens one alert for its photos."""
        if not self.is_at_work or self._choices.random() >= LOOKS:
            return
        rows = [row for row in inbox if self.photos_of(row)]
        if rows:
            await self._open(office, self._choices.choice(rows))

    async def check_all(self, office: OfficeHost, inbox: Sequence[AlertRow]) -> None:
        """I5, at the end: every photo of every alert kept is whole at its recipient."""
        for row in inbox:
            sent = self._witness.sent.get(row.headline.split()[1])
            if sent is None or not sent.photos or not sent.kept or sent.is_fleeting:
                continue
            states = await self._open(office, row)
            # What came after the backup an office was restored from came to a disk that is lost.
            if {sent.sender, sent.receiver} & self._witness.put_back.keys():
                continue
            if states != ["whole"] * len(sent.photos):
                raise Broken("I5", f"photos of {sent.token} at {office.name}: {states}")

    def photos_of(self, row: AlertRow) -> list[bytes]:
        """What each recipient of this alert must see."""
        sent = self._witness.sent.get(row.headline.split()[1])
        return sent.photos if sent is not None else []

    async def _open(self, office: OfficeHost, row: AlertRow) -> list[str]:
        """I5: a photo is shown whole and as it was made, or refused; the states of all of one alert."""
        token = row.headline.split()[1]
        view = await opened(office, row.alert_id)
        for place, photo in enumerate(view.photos):
            try:
                _, seen = await office.photo(row.alert_id, photo.number)
            except PolicyRefused as refused:
                if refused.code == "photo_not_here" and photo.state != "whole":
                    continue
                raise
            except SalweenError as error:
                if office.host.life is None:
                    raise
                raise Broken("I5", f"a photo of {token} does not open: {error.code}") from error
            if place >= len(self.photos_of(row)) or seen != self.photos_of(row)[place]:
                raise Broken("I5", f"a photo of {token} is shown that nobody sent so")
        return [photo.state for photo in view.photos]
