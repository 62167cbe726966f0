"""Where we may connect to: the parts of an `https` URL that somebody else chose, and addresses by tables of our own.

The tables are the IANA special-purpose address registries (RFC 6890 and its updates), read for one question: does a
public service live there? `ipaddress.is_global` answers another, and differently from one Python to the next.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from re import ASCII, IGNORECASE, compile as pattern
from typing import NamedTuple

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
        object.__setattr__(self, "_closed", networks_of(self.denied, "denied"))
        object.__setattr__(self, "_opened", networks_of(self.unsafe_networks, "unsafe_networks"))

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


def networks_of(texts: Collection[str], what: str) -> tuple[Network, ...]:
    """The networks, or `Misuse` that calls them `what`."""
    if isinstance(texts, str):
        raise Misuse(f"{what} is a collection of networks, not one text")
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError:
        raise Misuse(f'{what} are networks such as "203.0.113.0/24" or single addresses') from None
