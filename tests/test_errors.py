import json
from pathlib import Path

import pytest

from bartizan import errors
from bartizan.errors import BartizanError, Misuse, Reason, Rejected, Unavailable
from bartizan.gate.problems import refusal

ERRORS = Path(__file__).parent.parent / "docs" / "errors.md"


def tree(kind: type[BartizanError] = BartizanError) -> list[type[BartizanError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def test_every_error_is_the_fault_of_one_side() -> None:
    assert set(BartizanError.__subclasses__()) == {Misuse, Rejected, Unavailable}
    assert issubclass(Misuse, ValueError)
    for kind in tree():
        assert kind.code == "".join("_" * c.isupper() + c.lower() for c in kind.__name__).lstrip("_")
        assert 400 <= kind.status < 600
        assert (kind.status >= 500) == (not issubclass(kind, Rejected))
        assert getattr(errors, kind.__name__) is kind


def test_texts_are_constants_and_reasons_stay_inside() -> None:
    for kind in tree():
        if kind is Misuse:
            continue
        error = kind(Reason.WRONG_SECRET)
        assert str(error) == kind.title
        assert error.reason is Reason.WRONG_SECRET
        assert set(error.problem) == {"type", "title", "status", "code"}
        assert "wrong_secret" not in json.dumps(error.problem)
        assert isinstance(kind().reason, Reason)
        for event in ("0123456789abcdef0123456789abcdef", None):
            refuse = refusal(error, event, [(b"x-one", b"1")])
            instance = {} if event is None else {"instance": f"urn:bartizan:event:{event}"}
            assert json.loads(refuse.body) == {**error.problem, **instance}
            assert dict(refuse.headers)[b"content-length"] == str(len(refuse.body)).encode()
            assert refuse.headers[-1] == (b"x-one", b"1")


def test_misuse_says_what_to_write_and_its_problem_does_not() -> None:
    error = Misuse("write x instead")
    assert str(error) == "write x instead"
    assert "write x" not in json.dumps(error.problem)
    with pytest.raises(ValueError, match="write x"):
        raise error


def test_the_docs_name_every_error_and_every_reason() -> None:
    page = ERRORS.read_text("utf-8")
    missing = [reason.value for reason in Reason if f"`{reason.value}`" not in page]
    missing += [kind.code for kind in tree() if kind is not BartizanError and f"`{kind.code}`" not in page]
    assert missing == []
