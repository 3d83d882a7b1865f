"""Seven languages: complete, with the right plurals, and no word of a screen outside of them."""

import re

import pytest

from node.web.labels import word
from node.web.languages import BY_TAG, LANGUAGES, OF_COUNTRY, SOURCE_TAG, choose_untrusted, words
from node.web.messages import MESSAGES, sentence
from protocol import codelists
from tests.web import literals
from tests.web.catalogue import LOCALE, WEB, catalogue, sentences

TRANSLATED = [language for language in LANGUAGES if language.tag != SOURCE_TAG]
PLACE = re.compile(r"%\((\w+)\)s")
# Catalogues nobody who grew up with the language has read. It may only fall.
NEEDS_REVIEW = 6


def test_the_languages_of_the_screens_are_those_of_the_codes() -> None:
    """A form filled in one language is read in another: both must know the same seven."""
    assert tuple(BY_TAG) == codelists.LANGUAGES
    assert set(OF_COUNTRY.values()) < set(BY_TAG)


@pytest.mark.parametrize("babel_name", ["en", *(language.babel for language in TRANSLATED)])
def test_every_catalogue_holds_exactly_the_sentences_of_the_sources(babel_name: str) -> None:
    """``python -m tests.web.catalogue`` brings them up to date."""
    found = {message.id for message in sentences() if message.id}
    kept = {message.id for message in catalogue(babel_name) if message.id}
    assert sorted(map(str, found - kept)) == [], "not in the catalogue"
    assert sorted(map(str, kept - found)) == [], "no longer said"


@pytest.mark.parametrize("language", TRANSLATED, ids=lambda language: language.tag)
def test_every_sentence_is_translated_with_the_same_places(language: object) -> None:
    """No empty translation, no lost or invented %(place)s, no markup, one plural form."""
    found = catalogue(language.babel)  # type: ignore[attr-defined]
    assert found.num_plurals == 1, "CLDR has one form for it, also for Burmese, where Babel writes two"
    for message in found:
        if not message.id:
            continue
        source = message.id if isinstance(message.id, str) else message.id[-1]
        forms = [message.string] if isinstance(message.string, str) else list(message.string or ())
        assert len(forms) == 1, source
        assert forms[0], source
        assert set(PLACE.findall(forms[0])) == set(PLACE.findall(source)), source
        assert "<" not in forms[0], source


def test_burmese_has_one_plural_form() -> None:
    """One alert and many alerts are the same words in Burmese, for every count."""
    one, many = "%(count)s alert not opened", "%(count)s alerts not opened"
    spoken = words("my")
    assert {
        str(spoken.ngettext(one, many, count)).replace(str(count), "#") for count in (0, 1, 2, 5, 101)
    } == {str(spoken.ngettext(one, many, 7)).replace("7", "#")}
    assert "alert" not in spoken.ngettext(one, many, 1)
    assert words("en").ngettext(one, many, 1) == "1 alert not opened"
    assert words("en").ngettext(one, many, 2) == "2 alerts not opened"


def test_unreviewed_catalogues_are_counted() -> None:
    """A translation made without a native reviewer says so in its header."""
    marked = [path for path in LOCALE.glob("*.po") if "# needs_review:" in path.read_text(encoding="utf-8")]
    assert len(marked) == NEEDS_REVIEW


@pytest.mark.parametrize("path", sorted(WEB.rglob("*.html")), ids=lambda path: path.name)
def test_no_template_speaks_english_by_itself(path: object) -> None:
    """Every word and every spoken attribute goes through gettext."""
    source = path.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert literals.in_template(source) == []


@pytest.mark.parametrize("path", sorted(WEB.glob("*.py")), ids=lambda path: path.name)
def test_no_python_source_speaks_english_by_itself(path: object) -> None:
    """Sentences stand in gettext calls or are marked for them."""
    assert list(literals.in_python(path)) == []  # type: ignore[arg-type]


def test_the_search_for_untranslated_words_finds_them() -> None:
    """The check itself: text, attributes and blocks, but not expressions."""
    planted = '<p title="Look here">{{ _("fine") }} Hello {{ name }}</p>{% if x %}<b>there</b>{% endif %}'
    assert literals.in_template(planted) == ["Look here", "0 Hello 0", "there"]


@pytest.mark.parametrize(
    ("cookie", "accept", "tag"),
    [
        ("my", "de,en;q=0.5", "my"),
        ("xx", "th-TH,th;q=0.9,en;q=0.8", "th"),
        (None, "zh-CN,zh;q=0.9", "zh-Hans"),
        (None, "zh-TW", "zh-Hans"),
        (None, "de, lo", "lo"),
        (None, "", "en"),
        ("../../etc", "*;q=1," * 10_000, "en"),
        (None, ",my", "my"),
        (None, "zh-Hans,en", "zh-Hans"),
    ],
)
def test_a_reader_gets_the_language_they_chose_or_their_browser_asks_for(
    cookie: str | None, accept: str, tag: str
) -> None:
    """The choice first, then the browser's order, then English."""
    assert choose_untrusted(cookie, accept) == tag


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.tag)
def test_every_code_has_a_sentence_in_every_language(language: object) -> None:
    """Also codes without one of their own: the family speaks, or the code list of refusals."""
    spoken = words(language.tag)  # type: ignore[attr-defined]
    for code in MESSAGES:
        assert sentence(code, spoken)
    for family in ("malformed", "verification", "policy", "unavailable", "invariant", "another"):
        assert sentence("never_heard_of", spoken, family)
    assert sentence("second_officer_missing", spoken).unescape() == codelists.load("refusals").label(
        "second_officer_missing", spoken.language.tag
    )
    assert sentence("broker_op_unknown", spoken) == sentence("broker_answer", spoken)


def test_an_unknown_word_is_shown_as_its_code() -> None:
    """A newer log or peer may know more."""
    assert word("entry", "zz.new", words("th")) == "<bdi>zz.new</bdi>"


def test_values_in_sentences_are_escaped_and_percent_is_a_percent() -> None:
    """A name from outside cannot bring markup or a place of its own."""
    assert words("en").gettext("from %(office)s", office="<b>%(x)s</b>") == "from &lt;b&gt;%(x)s&lt;/b&gt;"
