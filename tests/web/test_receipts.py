"""A receipt on paper: in every language, with a picture that a decoder of others reads byte for byte."""

import json
import re
import subprocess
from collections.abc import Sequence

import pytest

from node.qr import qr_markup
from node.web.languages import LANGUAGES
from tests.audit.test_receipt import a_receipt
from tests.support.node_packages import NODE
from tests.support.syntax_rules import ROOT
from tests.web.fake_desk import PLAIN_ALERT, TENGCHONG, FakeDesk
from tests.web.serve import Client
from tests.web.test_pages import check_page, in_language

ADDRESS = f"/alert/{PLAIN_ALERT}/receipt"
EVENTS = ("submitted", "witnessed", "delivered", "read", "erased")
JSQR = ROOT / "node" / "web" / "static" / "vendor" / "jsQR.js"
DECODE = """
const jsQR = require(process.argv[1]);
const {side, rows} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const pixels = new Uint8ClampedArray(side * side * 4).fill(255);
rows.forEach((row, y) => [...row].forEach((bit, x) => {
  if (bit === "1") pixels.fill(0, (y * side + x) * 4, (y * side + x) * 4 + 3);
}));
const found = jsQR(pixels, side, side);
process.stdout.write(found === null ? "null" : Buffer.from(found.binaryData).toString("hex"));
"""
SCALE = 4


def rows_of(svg: str) -> list[str]:
    """The modules of a picture as it stands in a page, SCALE pixels each: drawn as a browser draws them."""
    side = int(re.findall(r'viewBox="0 0 ([0-9]+) ', svg)[0])
    modules = [["0"] * side for _ in range(side)]
    x, y = 0.0, 0.0
    (path,) = re.findall(r'<path stroke="#000" d="([^"]+)"', svg)
    for command, numbers in re.findall(r"([Mmh])([^Mmh]*)", path):
        values = [float(number) for number in re.findall(r"-?[0-9.]+", numbers)]
        if command == "h":
            for at in range(int(x), int(x + values[0])):
                modules[int(y)][at] = "1"
            x += values[0]
        else:
            x, y = (values[0], values[1]) if command == "M" else (x + values[0], y + values[1])
    return [wide for row in modules for wide in ["".join(bit * SCALE for bit in row)] * SCALE]


def decoded(rows: Sequence[str]) -> bytes:
    """What jsQR, which ships with the pages, reads from a square of black ("1") and white pixels."""
    done = subprocess.run(
        [NODE, "-e", DECODE, JSQR],
        input=json.dumps({"side": len(rows), "rows": rows}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return bytes.fromhex(done.stdout)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.tag)
async def test_choosing_and_paper_are_there_in_every_language(officer: Client, language: object) -> None:
    """Every event has its button and its page, without a word of English where there is another one."""
    await in_language(officer, language.tag)  # type: ignore[attr-defined]
    chosen = await officer.get(ADDRESS)
    found = check_page(chosen)
    assert [a["value"] for _, a in found.tags if a.get("name") == "event"] == list(EVENTS)
    for event in EVENTS:
        paper = await officer.post(ADDRESS, {"event": event, "office": TENGCHONG})
        assert paper.status == 200
        words = check_page(paper).words
        assert "<svg" in paper.text
        assert PLAIN_ALERT in words
        if language.tag != "en":  # type: ignore[attr-defined]
            assert "signed that" not in words
            assert "This office" not in words


async def test_a_receipt_is_made_by_a_button_and_by_nothing_else(officer: Client, desk: FakeDesk) -> None:
    """Looking at the choice hands nothing over; the alert's page leads there; the file is the receipt."""
    assert f'href="{ADDRESS}"' in (await officer.get(f"/alert/{PLAIN_ALERT}")).text
    await officer.get(ADDRESS)
    assert desk.handed_over == []
    desk.receipt_file = a_receipt().decode()
    saved = await officer.post(ADDRESS, {"event": "read", "office": TENGCHONG, "as": "file"})
    assert saved.text == a_receipt().decode()
    assert "attachment" in saved.headers["Content-Disposition"]
    assert desk.handed_over == [(PLAIN_ALERT, "read", TENGCHONG)]


async def test_the_picture_on_paper_is_the_receipt(officer: Client, desk: FakeDesk) -> None:
    """Byte for byte, from the page itself; and one of 2,000 bytes, the largest of a million entries."""
    desk.receipt_file = a_receipt().decode()
    paper = await officer.post(ADDRESS, {"event": "delivered", "office": TENGCHONG})
    (svg,) = re.findall(r"<svg[^>]*viewBox.{200,}?</svg>", paper.text[paper.text.index('class="qr"') :])
    assert decoded(rows_of(svg)) == a_receipt()
    largest = (a_receipt() * 3)[:2000]
    assert decoded(rows_of(qr_markup(largest))) == largest
