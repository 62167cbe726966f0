"""What becomes of good and bad tokens, over ASGI and WSGI: `python token_demo.py` prints the table.

Consumers' tokens are the shop's own. Members come from an OpenID provider that runs in this process, behind TLS with a
certificate that nobody else trusts; the gate finds its keys by discovery, as it would those of any provider.
"""

import json
import ssl
import sys
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import OKPAlgorithm
from loopback import asgi_served, running, wsgi_served

from bartizan import Issuer, Rule, allow, asgi, current_principal, wsgi
from bartizan.core.ring import new_root
from bartizan.outbound import EndpointPolicy
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit
from bartizan.types import Decision

RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("GET /orgs/{org}/dashboard", allow.member("viewer")),
]
ME, DASHBOARD = "/me", "/orgs/org_1/dashboard"


class Row(NamedTuple):
    what: str
    method: str
    target: str
    headers: Mapping[str, str]
    status: int
    reason: str


class Provider:
    """An OpenID provider: its address, its certificate, its tokens."""

    def __init__(self, port: int, certificate: str) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.certificate = certificate
        self.asked = 0
        self._key = ed25519.Ed25519PrivateKey.generate()

    def document(self, path: str) -> Mapping[str, Any]:
        """Its metadata, or its keys."""
        self.asked += 1
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        jwk = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**jwk, "kid": "one", "use": "sig", "alg": "EdDSA"}]}

    def token(self, now: int, **claims: Any) -> str:
        """An access token of a member."""
        said = {"iss": self.url, "sub": "anna", "aud": "dashboard", "iat": now, "exp": now + 300, "roles": ["Viewers"]}
        header = {"kid": "one", "typ": "at+jwt"}
        return jwt.encode({**said, **claims}, self._key, algorithm="EdDSA", headers=header)


def tokens(kit: Kit, others: Mapping[str, Kit], provider: Provider) -> list[Row]:
    """Every request, with the status and the reason in the event that are expected."""

    def row(what: str, token: str, status: int, reason: str = "admitted", target: str = ME) -> Row:
        return Row(what, "GET", target, {"Authorization": f"Bearer {token}"}, status, reason)

    def member(what: str, status: int, reason: str = "admitted", target: str = DASHBOARD, **claims: Any) -> Row:
        return row(what, provider.token(now, **claims), status, reason, target)

    consumer: dict[str, Any] = {"org": "org_1", "subject": "ben"}
    old = kit.token(**consumer)
    kit.clock.advance(400)
    good, now = kit.token(**consumer), kit.clock()
    head, body, signature = good.split(".")
    return [
        row("consumer's token", good, 200),
        row("expired token", old, 401, "token_expired"),
        row("token for another audience", others["another audience"].token(**consumer), 401, "wrong_audience"),
        row("test token on live", others["test"].token(**consumer), 401, "unknown_signing_key"),
        row("forged token", f"{head}.{changed(body, sub='admin')}.{signature}", 401, "wrong_signature"),
        row("alg: none", f"{changed(head, alg='none')}.{body}.", 401, "wrong_algorithm"),
        row("consumer's token at the dashboard", good, 403, "wrong_kind", DASHBOARD),
        member("member's token, of an OpenID provider", 200),
        member("member of an organization not theirs", 401, "foreign_organization", org_id="org_2"),
        member("member's ID token", 401, "claim_invalid", nonce="n"),
        member("member without the role", 403, "scope_missing", roles=["Guests"]),
        member("member at another organization", 404, "wrong_organization", target="/orgs/org_2/dashboard"),
    ]


def changed(part: str, **members: Any) -> str:
    """A part of a token with other members."""
    said = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return urlsafe_b64encode(json.dumps({**said, **members}).encode()).decode().rstrip("=")


@contextmanager
def served() -> Iterator[tuple[dict[str, int], list[Row], list[Decision]]]:
    """The ports of both servers, the requests to make, and where each decision of the gate turns up."""
    clock, root = FakeClock(), new_root()
    shared: dict[str, Any] = {"url": MemoryBackend(clock), "clock": clock, "secrets": [root], "issuer": "shop"}
    with provided() as provider:
        # The issuer and all that it may assert.
        issuer = Issuer(
            provider.url,
            organizations={"org_1"},
            audience="dashboard",
            roles={"Viewers": "viewer"},
            endpoint=EndpointPolicy(
                ports={int(provider.url.rpartition(":")[2])},
                unsafe_networks={"127.0.0.1"},
                authorities=provider.certificate,
            ),
        )
        kit = Kit(**shared, environment="live", audience="shop-api", issuers=[issuer])
        kit.clock = clock
        others = {
            "another audience": Kit(**shared, environment="live", audience="another-api"),
            "test": Kit(**shared, environment="test", audience="shop-api"),
        }
        gate = kit.security.gate(RULES)
        with (
            kit.security.blocking,
            asgi_served(asgi.GateMiddleware(hello, gate)) as one,
            wsgi_served(wsgi.GateMiddleware(wsgi_hello, gate)) as two,
        ):
            yield {"asgi": one, "wsgi": two}, tokens(kit, others, provider), kit.decisions


async def hello(_: Any, __: Any, send: Callable[[Any], Any]) -> None:
    """The application, as ASGI: it asks who is calling before it answers anything."""
    body = current_principal().actor.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def wsgi_hello(_: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application, as WSGI."""
    body = current_principal().actor.encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


@contextmanager
def provided() -> Iterator[Provider]:
    """An OpenID provider that is up."""

    class Documents(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(provider.document(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Documents) as server:
        private, certificate = self_signed()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as place:
            file = Path(place, "provider.pem")
            file.write_text(private + certificate, "ascii")
            context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        provider = Provider(server.server_port, certificate)
        with running(server):
            yield provider


def self_signed() -> tuple[str, str]:
    """A private key, and a certificate for 127.0.0.1 that vouches for itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a provider for the demo")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, made.public_bytes(Encoding.PEM).decode()


def asked(port: int, row: Row) -> int:
    """The status of one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(row.method, row.target, headers=dict(row.headers))
        return connection.getresponse().status
    finally:
        connection.close()


def main() -> int:
    """Print the table; 1 if anything differs."""
    wrong = 0
    with served() as (ports, table, decisions):
        for row in table:
            line = f"{row.what:<40}"
            for adapter, port in ports.items():
                status = asked(port, row)
                right = (status, decisions[-1].reason) == (row.status, row.reason)
                wrong += not right
                line += f"{adapter:>6}{status:>5}{'' if right else '  WRONG'}"
            print(f"{line}  expected {row.status}  {decisions[-1].reason}".rstrip())
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
