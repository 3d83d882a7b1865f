"""Photos for tests of what carries them, and how an office sends one."""

import io
from typing import Any

from PIL import Image

from node.views import AlertView, PhotoView, Submitted
from protocol.alert import Alert
from tests.simulation.daemons import OfficeHost


def a_jpeg(side: int = 256, *, noise: int = 60) -> bytes:
    """A photo whose size follows from its side: noise does not compress."""
    file = io.BytesIO()
    Image.effect_noise((side, side), noise).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


async def send_with_photos(office: OfficeHost, alert: Alert, *pictures: bytes) -> Submitted:
    """To the only peer."""

    async def work(node: Any, session: Any) -> Submitted:
        names = [await node.desk.stage_photo(session, picture) for picture in pictures]
        (peer,) = await node.desk.peers(session)
        submitted: Submitted = await node.desk.submit(session, alert, [peer.office_id], names)
        return submitted

    return await office._at_desk(work)


async def opened(office: OfficeHost, alert_id: str) -> AlertView:
    """One alert as the officer on duty sees it."""
    return await office._at_desk(lambda n, s: n.desk.open_alert(s, alert_id, purpose="duty"))


async def photos_of(office: OfficeHost, alert_id: str) -> tuple[PhotoView, ...]:
    """Its photos, without opening it again."""
    node = office.node
    assert node is not None
    named = bytes.fromhex(alert_id)
    sql = "SELECT max(incoming) FROM alert WHERE alert_id = ?"
    incoming = await office.host.run(lambda env: node.database.read(lambda tx: tx.value(sql, (named,))))
    return await office.host.run(
        lambda env: node.database.read(lambda tx: node._photos.views(tx, named, bool(incoming)))
    )


async def picture(office: OfficeHost, alert_id: str, number: int) -> tuple[str, bytes]:
    """One picture, after its alert was opened."""
    await opened(office, alert_id)
    return await office._at_desk(lambda n, s: n.desk.photo(s, alert_id, number))
