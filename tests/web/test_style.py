"""The sheet and the script: legible in light and dark, small, and without anything the policy forbids."""

import hashlib
import re

import pytest

from tests.web.catalogue import WEB

SHEET = (WEB / "static" / "salween.css").read_text(encoding="utf-8")
SCRIPT = (WEB / "static" / "salween.js").read_text(encoding="utf-8")
READERS = "".join(
    (WEB / "static" / name).read_text(encoding="utf-8") for name in ("camera.js", "carry.js", "pair.js")
)
SURFACES = ("ground", "surface", "sunk")
# (what is read, on what); WCAG 1.4.3 asks 4.5 of text.
TEXTS = [
    *((text, surface) for text in ("text", "quiet") for surface in (*SURFACES, "accent-soft")),
    *((text, surface) for text in ("accent", "danger", "warn", "good") for surface in ("ground", "surface")),
    *((name, f"{name}-soft") for name in ("danger", "warn", "good", "victim", "exercise", "test")),
    *(("text", f"{name}-soft") for name in ("danger", "exercise", "test")),
    ("accent-text", "accent"),
    ("danger", "accent-soft"),
    ("warn", "accent-soft"),
]
# 1.4.11 asks 3 of the edges of controls and of the focus.
EDGES = [(edge, surface) for edge in ("control", "focus") for surface in ("ground", "surface")]


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{\n(.*?)\n\s*\}", SHEET, flags=re.DOTALL)
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_edges_stand_out(scheme: str) -> None:
    """WCAG 2.2 AA, for every pair of colours the sheet puts together."""
    found = colours(scheme)
    for pairs, wanted in ((TEXTS, 4.5), (EDGES, 3.0)):
        for front, back in pairs:
            high, low = sorted((luminance(found[front]), luminance(found[back])), reverse=True)
            ratio = (high + 0.05) / (low + 0.05)
            assert ratio >= wanted, f"{front} on {back}: {ratio:.2f}"


def test_every_colour_is_one_of_the_named_ones() -> None:
    """So that the check above sees them all."""
    body = re.sub(r":root \{.*?\}", "", SHEET, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", body) == []
    assert set(re.findall(r"var\(--([a-z-]+)\)", SHEET)) <= set(colours("light"))


def test_nothing_is_fetched_from_elsewhere() -> None:
    """No address of another host, no import, no font file."""
    for text in (SHEET, SCRIPT, READERS):
        assert "://" not in text
        assert "@import" not in text
        assert "url(" not in text


def test_the_script_stays_small_and_clean() -> None:
    """At most 300 lines; no string becomes code or markup; nothing read or typed is stored."""
    assert len(SCRIPT.splitlines()) <= 300
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
    ):
        assert sink not in SCRIPT + READERS, sink
    for store in ("sessionStorage", "indexedDB", "pushState", "replaceState", "document.cookie", "caches"):
        assert store not in SCRIPT + READERS, store
    assert "localStorage" not in READERS
    assert re.findall(r"localStorage\.setItem\((\w+),", SCRIPT) == ["SINGLE_KEYS"]


def test_the_code_of_others_is_what_its_list_says() -> None:
    """Each vendored file has the SHA-256 in the list beside it, and comes with its licence."""
    vendor = WEB / "static" / "vendor"
    listed = dict(
        re.findall(r"^\| (\S+\.js) \|.*\| ([0-9a-f]{64}) \|$", (vendor / "README.md").read_text(), re.M)
    )
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.glob("*.js")
    }
    assert listed["jsQR.js"] == "bc40c8a15196236b2314db0856f72ca0b49980cd5413b8c852a7349f5fee0859"
    assert "Apache License" in (vendor / "LICENSE-jsQR").read_text()
