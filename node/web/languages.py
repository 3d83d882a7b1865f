"""The seven languages of the screens: which one a reader gets, and its words.

Sources are English; every other language is a gettext catalogue under ``locale/``, read through Babel when
first asked for. One rule: a missing translation shows the English sentence, never a key or nothing. Labels of
codes that cross the border are not here but in ``protocol.codelists``.
"""

import gettext as stdlib_gettext
import pkgutil
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Final

from babel import Locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from markupsafe import Markup, escape


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One language: BCP 47 tag (also in code lists), Babel's name, and its name in its own script."""

    tag: str
    babel: str
    own_name: str


# Own names, so that a reader who knows no other script finds the way.
LANGUAGES: Final = (
    Language(tag="en", babel="en_GB", own_name="English"),
    Language(tag="my", babel="my", own_name="မြန်မာ"),
    Language(tag="zh-Hans", babel="zh_Hans", own_name="简体中文"),
    Language(tag="th", babel="th", own_name="ไทย"),
    Language(tag="lo", babel="lo", own_name="ລາວ"),
    Language(tag="km", babel="km", own_name="ខ្មែរ"),
    Language(tag="vi", babel="vi", own_name="Tiếng Việt"),
)
BY_TAG: Final = {language.tag: language for language in LANGUAGES}
SOURCE_TAG: Final = "en"
# Language most officers of a country read; the marking of a review page shows an alert in it.
OF_COUNTRY: Final = {"MM": "my", "CN": "zh-Hans", "TH": "th", "LA": "lo", "KH": "km", "VN": "vi"}


class Words:
    """Sentences of one language. Values are escaped for HTML unless they are Markup already."""

    def __init__(self, language: Language, catalogue: stdlib_gettext.NullTranslations) -> None:
        self.language = language
        self.locale = Locale.parse(language.babel)
        self._catalogue = catalogue

    def gettext(self, sentence: str, **values: object) -> Markup:
        """The sentence in this language with ``%(name)s`` filled in."""
        return _fill(self._catalogue.gettext(sentence), values)

    def ngettext(self, one: str, many: str, count: int, **values: object) -> Markup:
        """The same for a counted thing; ``%(count)s`` is the count."""
        return _fill(self._catalogue.ngettext(one, many, count), {"count": count, **values})


def _fill(sentence: str, values: dict[str, object]) -> Markup:
    # Always through %, also without values, so that "%%" means one percent sign everywhere.
    return escape(sentence) % values


@cache
def words(tag: str) -> Words:
    """Words of the language ``tag``, one of BY_TAG."""
    language = BY_TAG[tag]
    if tag == SOURCE_TAG:
        return Words(language, stdlib_gettext.NullTranslations())
    source = pkgutil.get_data(__package__, f"locale/{language.babel}.po")
    assert source is not None, "the catalogues are part of the package"
    compiled = BytesIO()
    write_mo(compiled, read_po(BytesIO(source), locale=language.babel))
    compiled.seek(0)
    return Words(language, stdlib_gettext.GNUTranslations(compiled))


def choose_untrusted(cookie: str | None, accept_language: str) -> str:
    """Tag for a reader: what they chose, else the first of the browser's languages we have, else English."""
    if cookie in BY_TAG:
        return cookie
    for wish in accept_language[:256].split(","):
        name = wish.split(";")[0].strip().lower()
        if name.split("-")[0] == "zh":
            return "zh-Hans"
        if name.split("-")[0] in BY_TAG:
            return name.split("-")[0]
    return SOURCE_TAG


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for it, known to extractors
    """Mark a sentence for translation where no language is known yet."""
    return sentence
