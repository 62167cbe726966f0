"""Which addresses and URLs of somebody else's choice we would connect to: the same answer on every Python."""

import json
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bartizan.core.address import Endpoint, EndpointPolicy, address_of, endpoint_of, public
from bartizan.errors import InvalidRequest, Misuse, Reason

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "endpoints" / "webhook_endpoints.json").read_text("utf-8")
)
ADDRESSES = [(row["address"], row["expect"]) for row in VECTORS["addresses"]]
URLS = [(row["url"], row["expect"]) for row in VECTORS["urls"]]
POLICY = EndpointPolicy()


def passes(url: str, policy: EndpointPolicy = POLICY) -> bool:
    try:
        policy.check(url)
    except InvalidRequest:
        return False
    return True


def secure(url: str) -> str:
    """The same with `https`: what is wrong with it must not be its scheme alone."""
    return "https" + url.removeprefix("http") if url.startswith("http:") else url


def test_the_vectors_are_here() -> None:
    assert len(ADDRESSES) >= 33
    assert len(URLS) >= 31
    assert {expect for _, expect in ADDRESSES + URLS} == {"allow", "block", "block-at-connect", "policy"}


@pytest.mark.parametrize(("address", "expect"), ADDRESSES)
def test_address_vectors(address: str, expect: str) -> None:
    assert POLICY.allows(address) == (expect == "allow")


@pytest.mark.parametrize(("url", "expect"), URLS)
def test_url_vectors(url: str, expect: str) -> None:
    if url.startswith("http:"):
        assert not passes(url)
    assert passes(secure(url)) == (expect in {"allow", "block-at-connect"})


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bartizan.core.address import EndpointPolicy
from bartizan.errors import InvalidRequest
policy = EndpointPolicy()
def passes(url):
    try:
        return list(policy.check(url))
    except InvalidRequest:
        return None
asked = json.load(sys.stdin)
print(json.dumps([[policy.allows(a) for a in asked["addresses"]], [passes(u) for u in asked["urls"]]]))
"""


def pythons() -> list[str]:
    """This interpreter, and those of its neighbours that are new enough for us."""
    found = [sys.executable]
    for path in sorted(Path(sys.base_prefix).parent.glob("*/bin/python3")):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([path, "-I", "-c", check], check=False, capture_output=True).returncode == 0:
            found.append(str(path))
    return found


def test_every_python_gives_the_same_answers() -> None:
    edges = [
        str(address)
        for text in (
            "0.0.0.0/8",
            "100.64.0.0/10",
            "192.0.0.0/24",
            "198.18.0.0/15",
            "224.0.0.0/3",
            "2000::/3",
            "2001::/23",
            "3fff::/20",
        )
        for network in [ip_network(text)]
        for address in (network[0], network[-1])
    ]
    asked = {
        "addresses": [address for address, _ in ADDRESSES] + edges,
        "urls": [each for url, _ in URLS for each in (url, secure(url))],
    }
    source = Path(__file__).parents[1] / "src"
    answers = {
        subprocess.run(
            [python, "-I", "-c", PROGRAM, source], input=json.dumps(asked), capture_output=True, text=True, check=True
        ).stdout
        for python in pythons()
    }
    assert len(answers) == 1
    addresses, urls = json.loads(answers.pop())
    assert addresses == [POLICY.allows(address) for address in asked["addresses"]]
    assert [url is not None for url in urls] == [passes(url) for url in asked["urls"]]


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://shop.example", ("shop.example", 443, "/")),
        ("HTTPS://Shop.EXAMPLE:443/Hook?a=B%2f#"[:-1], ("shop.example", 443, "/Hook?a=B%2f")),
        ("https://shop.example?a=1", ("shop.example", 443, "/?a=1")),
        ("https://1.1.1.1/x", ("1.1.1.1", 443, "/x")),
        ("https://[2606:4700::1111]/", ("2606:4700::1111", 443, "/")),
        ("https://xn--bcher-kva.example/", ("xn--bcher-kva.example", 443, "/")),
    ],
)
def test_a_good_url_in_its_parts(url: str, endpoint: tuple[str, int, str]) -> None:
    assert POLICY.check(url) == Endpoint(*endpoint)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https:shop.example",
        "https:/shop.example/",
        "https://",
        "https://shop.example:/",
        "https://shop.example:65536/",
        "https://shop.example:99999/",
        "https://shop.example:443x/",
        "https://shop.example:４４３/",
        "https://shop.example./",
        "https://.shop.example/",
        "https://shop..example/",
        "https://-shop.example/",
        "https://shop-.example/",
        "https://sho_p.example/",
        "https://shop/",
        "https://a.localhost/",
        "https://shop.0x7f/",
        "https://shop.0x/",
        "https://1.2.3/",
        "https://1.2.3.4.5/",
        "https://01.1.1.1/",
        "https://[1.1.1.1]/",
        "https://[]/",
        "https://[::g]/",
        "https://[2606:4700::1111/",
        "https://2606:4700::1111/",
        "https://shop.example/%zz",
        "https://shop.example/%",
        "https://shop.example/#a",
        "https://shop.example/\\evil.example",
        "https://shop%2eexample/",
        "https://shop.example\t/",
        "https://shop.example/\n",
        "https://ſhop.example/",  # in Unicode the long s is another s, and U+212A another k
        "https://sho\u212a.example/",
        "https://bücher.example/",
        "https://shop。example/",
        "https://@shop.example/",
        " https://shop.example/",
        "https://shop.example/" + "a" * 2048,
    ],
)
def test_a_url_that_two_readers_could_split_differently(url: str) -> None:
    assert endpoint_of(url) is None
    with pytest.raises(InvalidRequest) as caught:
        POLICY.check(url)
    assert caught.value.reason is Reason.ENDPOINT_NOT_ALLOWED


def test_only_the_allowed_ports() -> None:
    policy = EndpointPolicy(ports={8443})
    assert policy.check("https://shop.example:8443/").port == 8443
    assert not passes("https://shop.example/", policy)


@pytest.mark.parametrize(
    "address",
    [
        "168.63.129.16",
        "2606:4700::5efe:a00:1",
        "2606:4700::200:5efe:a00:1",
        "64:ff9b::1.1.1.1",
        "::ffff:1.1.1.1",
        "1.1.1.1%eth0",
        "1.1.1",
        " 1.1.1.1",
    ],
)
def test_what_looks_public_and_is_not(address: str) -> None:
    assert not POLICY.allows(address)


def test_own_addresses_and_a_translation_prefix_are_closed() -> None:
    policy = EndpointPolicy(denied=["8.8.4.4", "2a01:4f8:0:64::/96"])
    assert not policy.allows("8.8.4.4")
    assert not policy.allows("2a01:4f8:0:64::a00:1")
    assert policy.allows("8.8.8.8")
    assert not passes("https://8.8.4.4/", policy)


def test_what_is_opened_is_exactly_that_and_denied_wins() -> None:
    policy = EndpointPolicy(unsafe_networks=["10.0.0.7"], denied=["10.0.0.7"])
    assert not policy.allows("10.0.0.7")
    policy = EndpointPolicy(unsafe_networks=["10.0.0.7"])
    assert policy.allows("10.0.0.7")
    assert policy.exempts("10.0.0.7")
    assert not policy.allows("10.0.0.8")
    assert not policy.exempts("8.8.8.8")
    assert not policy.exempts("nobody")


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": ()},
        {"ports": {0}},
        {"ports": {65536}},
        {"ports": {True}},
        {"denied": "10.0.0.0/8"},
        {"denied": [""]},
        {"denied": ["10.0.0.1/8"]},
        {"unsafe_networks": ["everything"]},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"seconds": 61},
        {"seconds": True},
        {"max_bytes": 0},
        {"max_bytes": True},
        {"authorities": "a path.pem"},
    ],
)
def test_misuse(fields: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        EndpointPolicy(**fields)


@given(st.text() | st.from_regex(r"\Ahttps://[ -~]{0,60}\Z"))
def test_any_text_is_an_endpoint_or_refused(url: str) -> None:
    if passes(url):
        endpoint = POLICY.check(url)
        assert url.lower().startswith("https://")
        assert endpoint.host in url.lower()
        address = address_of(endpoint.host)
        assert address is None or public(address)


@given(st.ip_addresses())
def test_no_closed_address_is_public(address: Any) -> None:
    """What the standard library of this Python calls private is closed; the tables close more."""
    if not address.is_global or address.is_multicast:
        assert not public(address)
