"""Addresses: where we may connect to, by tables of our own, and where a request came from.

The tables are the IANA special-purpose address registries (RFC 6890 and its updates), read for one question: does a
public service live there? `ipaddress.is_global` answers another, and differently from one Python to the next.

Where a request came from is the socket's peer, or what declared proxies say in one declared header; what cannot be told
is None. Such an address is a text in its one form (RFC 5952), so that it can be looked up.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from re import ASCII, IGNORECASE, compile as pattern
from typing import Literal, NamedTuple

from bartizan.core.request import EnvironHeaders, Request
from bartizan.errors import InvalidRequest, Misuse, Reason

Network = IPv4Network | IPv6Network

LONGEST_URL = 2048
LONGEST_HOST = 253  # RFC 1035 section 2.3.4, in the form with dots
LONGEST_WAIT = 60  # seconds

# RFC 3986, without what two readers take for different things: user information, fragments, percent signs in a host,
# backslashes, and everything that is not visible ASCII. A name beyond ASCII is written as its A-label (RFC 5890).
_URL = pattern(
    r"https://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:[/?](?:[a-z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-f]{2})*)?)",
    ASCII | IGNORECASE,  # beyond ASCII a few letters count as the lower case of ours
)
_LABEL = pattern(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 section 2.1
_NUMBER = pattern(r"[0-9]+|0x[0-9a-f]*")  # a last label that makes an IPv4 address of a host (WHATWG URL standard)

_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, and what some systems take for this host
        "10.0.0.0/8",  # RFC 1918
        "100.64.0.0/10",  # carriers' translation (RFC 6598), and the metadata service of a cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # the host of a cloud's virtual machines, behind a public number
        "169.254.0.0/16",  # link-local, and the metadata services
        "172.16.0.0/12",  # RFC 1918
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 (RFC 7535): anycast, whoever is next
        "192.52.193.0/24",  # AMT (RFC 7450): anycast, whoever is next
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # RFC 1918
        "192.175.48.0/24",  # AS112 (RFC 7534)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast
    )
)
_OPEN_V6 = IPv6Network("2000::/3")  # global unicast (RFC 4291): all else, with what maps or embeds IPv4, is closed
_CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, benchmarks, ORCHID, anycasts
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056): an IPv4 address of anybody's choice inside
        "2620:4f:8000::/48",  # AS112 (RFC 7534)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_ISATAP = 0x5EFE  # RFC 5214 section 6.1: an interface identifier of 0000:5efe or 0200:5efe has an IPv4 address inside


def public(address: IPv4Address | IPv6Address) -> bool:
    """Whether a public service may live there."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if (int(address) >> 32) & 0xFDFF_FFFF == _ISATAP:
        return False
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


class Endpoint(NamedTuple):
    """The parts of a URL: a lower-case name or an address without brackets, the port, and path with query."""

    host: str
    port: int
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPolicy:
    """Which URLs of somebody else's choice may be connected to, and how much of an answer is read.

    `ports` are the allowed ports. `denied` are further closed networks: your own public addresses, and the NAT64 prefix
    of your network if it is not `64:ff9b::/96`. `unsafe_networks` are opened, whatever the tables say: name single
    hosts. `authorities` are certificates in PEM that vouch for servers in place of the system's. `seconds` is the one
    deadline for looking up, connecting and reading together; a body over `max_bytes` is refused.
    """

    ports: Collection[int] = (443,)
    denied: Collection[str] = ()
    unsafe_networks: Collection[str] = ()
    authorities: str | None = None
    seconds: float = 10
    max_bytes: int = 1024 * 1024
    _closed: tuple[Network, ...] = field(init=False, repr=False, compare=False)
    _opened: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ports = frozenset(self.ports)
        if not ports or not all(type(port) is int and 0 < port < 65536 for port in ports):
            raise Misuse("ports are numbers from 1 to 65535, and at least one")
        if isinstance(self.seconds, bool) or not 0 < self.seconds <= LONGEST_WAIT:
            raise Misuse(f"seconds is more than 0 and at most {LONGEST_WAIT}")
        if type(self.max_bytes) is not int or self.max_bytes < 1:
            raise Misuse("max_bytes is a number of bytes")
        if self.authorities is not None and "-----BEGIN CERTIFICATE-----" not in self.authorities:
            raise Misuse("authorities are certificates in PEM")
        object.__setattr__(self, "ports", ports)
        object.__setattr__(self, "denied", tuple(self.denied))
        object.__setattr__(self, "unsafe_networks", tuple(self.unsafe_networks))
        object.__setattr__(self, "_closed", _networks(self.denied, "denied"))
        object.__setattr__(self, "_opened", _networks(self.unsafe_networks, "unsafe_networks"))

    def check(self, url: str, /) -> Endpoint:
        """The parts of a URL that may be connected to, as far as it tells by itself; `InvalidRequest` for any other.

        What its name stands for is checked when we connect: a name that is public today may not be tomorrow.
        """
        endpoint = endpoint_of(url)
        if endpoint is None or endpoint.port not in self.ports:
            raise InvalidRequest(Reason.ENDPOINT_NOT_ALLOWED)
        address = address_of(endpoint.host)
        if address is not None and not self._allowed(address):
            raise InvalidRequest(Reason.ENDPOINT_NOT_ALLOWED)
        return endpoint

    def allows(self, text: str, /) -> bool:
        """Whether a connection to this address (RFC 4291 section 2.2 or dotted decimal, no zone) is allowed."""
        address = address_of(text)
        return address is not None and self._allowed(address)

    def exempts(self, text: str, /) -> bool:
        """Whether this address is one of `unsafe_networks`."""
        address = address_of(text)
        return address is not None and any(address in network for network in self._opened)

    def _allowed(self, address: IPv4Address | IPv6Address) -> bool:
        if any(address in network for network in self._closed):
            return False
        return public(address) or any(address in network for network in self._opened)


def endpoint_of(url: str) -> Endpoint | None:
    """The parts of an `https` URL that every reader splits alike, or None."""
    if len(url) > LONGEST_URL or (parts := _URL.fullmatch(url)) is None:
        return None
    host, port, target = parts["host"].lower(), parts["port"], parts["target"]
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host or address_of(host) is None:
            return None
    elif not _is_name(host) and address_of(host) is None:
        return None
    number = 443 if port is None else int(port)
    if not 0 < number < 65536:
        return None
    return Endpoint(host, number, target if target.startswith("/") else f"/{target}")


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that this text is, or None. A zone (`%eth0`) has no meaning to anybody but this machine."""
    if "%" in text:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    # A name without a dot is completed by the resolver's search list: nobody knows whose host that is.
    labels = host.split(".")
    if len(host) > LONGEST_HOST or len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)):
        return False
    return labels[-1] != "localhost" and not _NUMBER.fullmatch(labels[-1])


def _networks(texts: Collection[str], what: str) -> tuple[Network, ...]:
    if isinstance(texts, str):
        raise Misuse(f"{what} is a collection of networks, not one text")
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError:
        raise Misuse(f'{what} are networks such as "203.0.113.0/24" or single addresses') from None


# --- where a request came from ---

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
    for network in _networks(networks, "networks"):
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
