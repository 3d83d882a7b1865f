"""The recorded documents of tests/vectors/documents.json: one answer each, for ever, and none left out."""

import ast
from pathlib import Path

import pytest

from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from protocol import items, receipts, requests
from protocol.receipts import ReceiptState
from tests.vectors import make_documents
from tests.vectors.make_documents import Document, answer_of

ROOT = Path(__file__).resolve().parents[2]
CASES = make_documents.read_file()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.form}: {case.about}")
def test_each_recorded_document_gets_its_one_answer(case: Document) -> None:
    """The code it names, or the very bytes again: a value has one encoding."""
    code, encoded = answer_of(case)
    assert code == case.code
    if not code and encoded is not None and "capitals" not in case.about:
        assert encoded == case.data


def test_the_file_is_what_the_script_makes() -> None:
    """A case added to the script and not written, or the other way round, is noticed."""
    made = make_documents.documents()
    assert [(c.form, c.about, c.code, len(c.data)) for c in made] == [
        (c.form, c.about, c.code, len(c.data)) for c in CASES
    ]
    assert [answer_of(case)[0] for case in made] == [case.code for case in made]


def test_each_form_has_a_good_and_a_bad_case() -> None:
    """A reader that accepts or refuses everything fails for every form."""
    for form in make_documents.READERS:
        codes = [case.code for case in CASES if case.form == form]
        assert "" in codes, form
        assert any(codes), form


def _tags(path: str, function: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (body,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    return {
        str(value.value)
        for node in ast.walk(body)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "k" and isinstance(value, ast.Constant)
    }


def test_every_item_operation_answer_and_receipt_has_a_case() -> None:
    """A new one fails here until a vector shows it."""
    good = [case for case in CASES if not case.code]
    listed = {item for c in good if c.form == "items" for item in items.decode_items_untrusted(c.data)}
    tags = {case.about for case in good if case.form == "items"}
    assert _tags("protocol/items.py", "_to_wire") <= tags
    assert len({type(item) for item in listed}) >= len(_tags("protocol/items.py", "_to_wire"))
    states = {
        receipt.state
        for case in good
        if case.form == "receipts"
        for receipt in receipts.decode_receipts_untrusted(case.data)
    }
    assert states == set(ReceiptState) - {ReceiptState.HELD}
    (request,) = (case for case in good if case.form == "request")
    private = XWingPrivateKey.from_seed(SecretBytes(bytes.fromhex(request.needs["seed"])))
    opened = requests.open_request_untrusted(private, request.data)
    asked = {str(requests._op_to_wire(op)["k"]) for op in opened.ops}  # type: ignore[index, call-overload]
    assert asked == _tags("protocol/requests.py", "_op_to_wire")
    pending = requests.PendingRequest(response_key=opened.response_key, enc=opened.enc, ops=opened.ops)
    answered: set[str] = set()
    for case in good:
        if case.form == "answer":
            results = requests.open_answer_untrusted(pending, case.data).results
            answered |= {str(requests._result_to_wire(r)["k"]) for r in results}  # type: ignore[index, call-overload]
    assert answered == _tags("protocol/requests.py", "_result_to_wire")
