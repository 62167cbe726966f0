"""Where a request came from: the socket's peer, or what declared proxies say in one declared header.

What cannot be told is None. Such an address is a text in its one form (RFC 5952), so that it can be looked up.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from re import ASCII, IGNORECASE, compile as pattern
from typing import Literal

from bartizan.core.address import LONGEST_HOST, address_of, networks_of
from bartizan.core.request import EnvironHeaders, Request
from bartizan.errors import Misuse

ForwardingHeader = Literal["x-forwarded-for", "forwarded"]
UNKNOWN = "unknown"  # the network of whoever cannot be told: one budget for all of them
LONGEST_ENTRY = 512  # of a forwarding header; nobody's element is longer
MOST_NETWORKS = 100
MOST_HOPS = 10
_KEPT = 64  # answers that a set of networks keeps
# RFC 4291 section 2.5.5.2, and the well-known prefix of RFC 6052 section 2.1: an IPv4 address, whoever wrote it.
_WRAPPED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
_NODE = pattern(r"(?:\[([0-9a-f:.]*:[0-9a-f:.]*)\]|([0-9.]+))(?::[0-9]{1,5})?", ASCII | IGNORECASE)
_WORD = r"[!#$%&'*+.^_`|~0-9a-z-]+"
_PAIR = rf"{_WORD}=(?:{_WORD}|\"(?:[^\"\\]|\\.)*+\")"
_ELEMENT = pattern(
    rf"[ \t]*(?:{_PAIR})?(?:[ \t]*;[ \t]*(?:{_PAIR})?)*+[ \t]*", ASCII | IGNORECASE
)  # RFC 7239 section 4
_FOR = pattern(rf"(?:^|;)[ \t]*for=(?:({_WORD})|\"([^\"\\]*)\")", ASCII | IGNORECASE)


@lru_cache(maxsize=4096)
def client_of(text: str) -> str | None:
    """The address that this text is, in its one form, or None. A mapped or translated IPv4 address is the IPv4 one."""
    address = address_of(text) if len(text) <= LONGEST_HOST else None
    if isinstance(address, IPv6Address) and any(address in network for network in _WRAPPED):
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    return None if address is None else str(address)


@lru_cache(maxsize=4096)
def network_of(client: str | None) -> str:
    """Whom to count a client's requests to: its IPv4 address, or the /64 that one IPv6 customer has at least."""
    if client is None:
        return UNKNOWN
    return client if ":" not in client else str(IPv6Network((client, 64), strict=False))


class Clients:
    """Finds where requests came from: the peer, or the address that the outermost of `hops` proxies saw.

    Each proxy appends the address that it saw to `header`, so the entries are counted from the right, and the rest is
    the client's own text. Fewer entries than hops is an address unknown; the other header is not looked at. Whoever can
    connect to the service around its proxies can say what it likes. `rewritten` is called once when the server says
    that it has put another address in the peer's place, though no proxy is declared: such an address is unknown.
    """

    __slots__ = ("_folded", "_header", "_hops", "_rewritten", "_told")

    def __init__(
        self,
        hops: int = 0,
        header: ForwardingHeader = "x-forwarded-for",
        rewritten: Callable[[], object] = lambda: None,
    ) -> None:
        if type(hops) is not int or not 0 <= hops <= MOST_HOPS:
            raise Misuse(f"proxy_hops is the number of proxies before this service, at most {MOST_HOPS}")
        if header not in ("x-forwarded-for", "forwarded"):
            raise Misuse('proxy_header is "x-forwarded-for" or "forwarded"')
        self._hops = hops
        self._header: ForwardingHeader = header
        self._folded = f"HTTP_{header.upper().replace('-', '_')}"
        self._rewritten = rewritten
        self._told = False

    def address(self, request: Request) -> str | None:
        """The client's address in its one form, or None."""
        if self._hops:
            return self._forwarded(request)
        client = request.client
        if client is None:
            return None
        text, port = client
        if not port and request.headers.__class__ is not EnvironHeaders:  # no socket has port 0; WSGI tells none
            if not self._told:
                self._told = True
                self._rewritten()
            return None
        return client_of(text.partition("%")[0] if "%" in text else text)  # a link-local peer has a zone

    def _forwarded(self, request: Request) -> str | None:
        headers = request.headers
        if headers.__class__ is EnvironHeaders:
            value = headers.environ.get(self._folded)
        else:
            value = request.header(self._header)
        if value is None:
            return None
        if self._header == "forwarded":
            return _from_forwarded(value, self._hops)
        entries = value.rsplit(",", self._hops)
        return _from_node(entries[-self._hops]) if len(entries) >= self._hops else None


def _from_node(text: str) -> str | None:
    text = text.strip(" \t")
    if len(text) > LONGEST_HOST:
        return None
    node = _NODE.fullmatch(text)
    return client_of(text if node is None else node[1] or node[2])


def _from_forwarded(value: str, hops: int) -> str | None:
    """The address in the element that many from the right (RFC 7239).

    Read from the right, because a quote that the client leaves open would take in what the proxies append.
    """
    end = len(value)
    for hop in range(hops, 0, -1):
        start = end
        while True:
            start = value.rfind(",", 0, start)
            if end - start > LONGEST_ENTRY:
                return None
            if _ELEMENT.fullmatch(value, start + 1, end):
                break
            if start < 0:
                return None
        if hop == 1:
            found = _FOR.findall(value[start + 1 : end])
            return _from_node(found[0][0] or found[0][1]) if len(found) == 1 else None
        end = start
        if end < 0:
            return None
    return None


class Networks:
    """The addresses of a list of networks; what was asked lately is one look-up."""

    __slots__ = ("_kept", "_networks")

    def __init__(self, texts: Collection[str]) -> None:
        self._networks = tuple(ip_network(text) for text in texts)
        self._kept: dict[str, bool] = {}

    def __contains__(self, client: str) -> bool:
        known = self._kept.get(client)
        if known is None:
            address = ip_address(client)
            known = any(address in network for network in self._networks)
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[client] = known
        return known


def checked_networks(networks: Collection[str]) -> frozenset[str]:
    """Networks and single addresses, each in its one form; IPv4 inside IPv6 is IPv4. Anything else is `Misuse`."""
    given: Collection[object] = networks
    if not networks or len(networks) > MOST_NETWORKS or not all(isinstance(text, str) for text in given):
        raise Misuse(f"networks is a collection of 1 to {MOST_NETWORKS} networks; None is no restriction")
    out = set()
    for network in networks_of(networks, "networks"):
        if not network.prefixlen:
            raise Misuse("a network of /0 restricts nothing: leave networks away")
        if isinstance(network, IPv4Network):
            out.add(str(network))
            continue
        if "%" in str(network):
            raise Misuse("a network has no zone")
        wrapped = next((outer for outer in _WRAPPED if network.overlaps(outer)), None)
        if wrapped is not None and network.prefixlen <= 96:
            raise Misuse("write IPv4 networks as IPv4: what is mapped or translated is compared as IPv4")
        if wrapped is not None:
            out.add(str(IPv4Network((int(network[0]) & 0xFFFF_FFFF, network.prefixlen - 96))))
        else:
            out.add(str(network))
    return frozenset(out)
