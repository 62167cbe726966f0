"""Whether a page of another origin sent a request, by its headers: the table, and the attacks on it."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from bartizan import Misuse, OriginCheck
from bartizan.errors import CrossOrigin

OWN = "https://shop.example"
CHECK = OriginCheck([OWN, "https://admin.shop.example:8443", "http://localhost:8000"])


def passes(method: str = "POST", *, websocket: bool = False, **headers: str) -> bool:
    try:
        CHECK.verify(method, {name.replace("_", "-"): value for name, value in headers.items()}, websocket=websocket)
    except CrossOrigin:
        return False
    return True


def test_a_page_of_an_own_origin_passes() -> None:
    for origin in (OWN, "https://admin.shop.example:8443", "http://localhost:8000"):
        for site in ("same-origin", "same-site", "cross-site", "none", "unheard-of"):
            assert passes(origin=origin, sec_fetch_site=site)
        assert passes(Origin=origin)
        assert passes(origin=origin, websocket=True)
    assert passes(sec_fetch_site="same-origin")  # a browser that names no Origin for it


@pytest.mark.parametrize("origin", [
    "null", "", "https://evil.example", "https://shop.example.evil.example", "https://shop.example:443",
    "https://shop.example:8443", "http://shop.example", "https://SHOP.example", "https://shop.example/", "shop.example",
    "https://sub.shop.example", "https://shop.example https://evil.example", "https://shop.example, https://evil.example",
])  # fmt: skip
def test_same_origin_with_foreign_origin(origin: str) -> None:
    """The Origin has the last word, `null` and the empty one too, whatever Sec-Fetch-Site says beside it."""
    for site in ("same-origin", "same-site", "none"):
        assert not passes(origin=origin, sec_fetch_site=site)
    assert not passes(origin=origin)


def test_sec_fetch_none_on_post() -> None:
    """A navigation that the user began is no reason to let a POST through."""
    assert not passes(sec_fetch_site="none")
    assert passes("GET", sec_fetch_site="none")


def test_same_site_subdomain_takeover() -> None:
    assert not passes(sec_fetch_site="same-site")
    assert not passes(origin="https://blog.shop.example", sec_fetch_site="same-site")


@pytest.mark.parametrize("site", ["cross-site", "unheard-of", "", "Same-Origin", "same-origin, same-origin"])
def test_sec_fetch_site_unknown_value(site: str) -> None:
    assert not passes(sec_fetch_site=site)


def test_a_request_that_names_neither_is_refused() -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY", "post", "get", "WEBSOCKET", ""):
        assert not passes(method)
    for method in ("GET", "HEAD", "OPTIONS", "TRACE"):
        assert passes(method, origin="https://evil.example", sec_fetch_site="cross-site")


def test_websocket_cross_origin() -> None:
    """A handshake is a GET, and needs an Origin of ours all the same."""
    assert not passes("GET", websocket=True)
    assert not passes("GET", websocket=True, sec_fetch_site="same-origin")
    assert not passes("GET", websocket=True, origin="https://evil.example")
    assert passes("GET", websocket=True, origin=OWN)


def test_headers_come_in_every_form_and_once() -> None:
    CHECK.verify("POST", [("Origin", OWN)])
    CHECK.verify("POST", [(b"origin", OWN.encode())])
    for pairs in ([("origin", OWN), ("Origin", OWN)], [("sec-fetch-site", "same-origin")] * 2):
        with pytest.raises(CrossOrigin):
            CHECK.verify("POST", pairs)


@pytest.mark.parametrize("origins", [
    (), [], OWN, ["shop.example"], ["https://shop.example/"], ["https://shop.example:443"], ["http://shop.example"],
    ["https://SHOP.example"], ["https://*.shop.example"], ["null"], [""], ["https://"], ["https://u@shop.example"],
    ["ftp://shop.example"], ["https://shop.example:"], ["https://shop.example:99999"], ["https://sh\u00f6p.example"],
    [None], [b"https://shop.example"],
])  # fmt: skip
def test_origins_that_are_none(origins: Any) -> None:
    with pytest.raises(Misuse):
        OriginCheck(origins)


@given(st.text(), st.one_of(st.none(), st.text()), st.one_of(st.none(), st.text()))
def test_whatever_comes_is_a_yes_or_a_cross_origin(method: str, origin: str | None, site: str | None) -> None:
    headers = {name: value for name, value in (("origin", origin), ("sec-fetch-site", site)) if value is not None}
    try:
        CHECK.verify(method, headers)
    except CrossOrigin:
        return
    assert method in {"GET", "HEAD", "OPTIONS", "TRACE"} or origin == OWN or site == "same-origin"
