"""Every sentence of the pages, found in their sources, and the catalogues brought up to date with them.

``python -m tests.web.catalogue`` rewrites ``node/web/locale/*.po``: new sentences come in empty, gone
ones leave. A test holds the catalogues to what is found here.
"""

from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import read_po, write_po

from node.web.languages import LANGUAGES

WEB = Path(__file__).parents[2] / "node" / "web"
LOCALE = WEB / "locale"
HEADER = """\
# {name}: the words of the pages. New sentences come in by: python -m tests.web.catalogue
# needs_review: made without a native reviewer, who removes this line when done.
"""
SOURCE_HEADER = """\
# English sentences of the pages, as found in the sources: what every other catalogue translates.
"""


def sentences() -> Catalog:
    """All sentences of templates and Python sources; plural ones as pairs."""
    found = Catalog(locale="en", fuzzy=False)
    for path in sorted(WEB.rglob("*.html")):
        _add(found, path, "jinja2.ext.babel_extract")
    for path in sorted(WEB.glob("*.py")):
        _add(found, path, "python")
    return found


def _add(found: Catalog, path: Path, method: str) -> None:
    with path.open("rb") as file:
        for line, message, _, _ in extract(method, file, options={"trimmed": "true", "encoding": "utf-8"}):
            found.add(message, locations=[(path.relative_to(WEB).as_posix(), line)])


def catalogue(babel_name: str) -> Catalog:
    """One catalogue as it stands in the package."""
    with (LOCALE / f"{babel_name}.po").open("rb") as file:
        return read_po(file, locale=babel_name)


def updated(babel_name: str, header: str) -> bytes:
    """The catalogue with exactly the sentences of the sources, in their order, keeping known translations."""
    path = LOCALE / f"{babel_name}.po"
    known = catalogue(babel_name) if path.exists() else Catalog(locale=babel_name)
    fresh = Catalog(
        locale=babel_name, project="salween", version="pages", fuzzy=False, header_comment=header.rstrip()
    )
    for message in sentences():
        if message.id:
            kept = known.get(message.id)
            fresh.add(message.id, kept.string if kept is not None else None, locations=[])
    # CLDR has one plural form for all but English; Babel writes two for Burmese.
    if babel_name != "en":
        fresh._num_plurals, fresh._plural_expr = 1, "0"  # type: ignore[assignment]
    out = BytesIO()
    write_po(out, fresh, width=100, omit_header=False, sort_output=False)
    lines = [line for line in out.getvalue().decode().splitlines() if not _is_noise(line)]
    return ("\n".join(lines) + "\n").encode()


def _is_noise(line: str) -> bool:
    # Dates and tool names change without a sentence changing.
    return line.startswith(
        (
            '"POT-Creation-Date',
            '"PO-Revision-Date',
            '"Last-Translator',
            '"Language-Team',
            '"Generated-By',
            '"Report-Msgid',
        )
    )


def main() -> None:
    """Rewrite all catalogues."""
    for language in LANGUAGES:
        name = "en" if language.tag == "en" else language.babel
        header = SOURCE_HEADER if name == "en" else HEADER.format(name=language.own_name)
        (LOCALE / f"{name}.po").write_bytes(updated(name, header))


if __name__ == "__main__":
    main()
