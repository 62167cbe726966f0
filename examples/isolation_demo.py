"""Who may do what, and never in another organization: `python isolation_demo.py` prints the table.

Orders of two organizations and of two consumers, behind guards; members with roles, by tokens of an identity provider
whose key is in this process; and a job that takes up what was carried for it, and what was not.
"""

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from loopback import wsgi_served

from bartizan import Guard, Issuer, NotFound, Rule, allow
from bartizan.errors import InvalidCode
from bartizan.testing import Kit
from bartizan.wsgi import GateMiddleware

LOGIN = "https://login.example"
ROLES = {"viewer": {"orders:read"}, "editor": {"orders:read", "orders:write"}}
ORDERS = {"1": ("org_1", "anna"), "2": ("org_1", "bert"), "3": ("org_2", "carl")}  # whose, and of whom
GUARDS = {"GET": Guard("orders:read"), "DELETE": Guard("orders:write")}
RULES = [Rule("GET|DELETE /orders/{id}", allow.member() | allow.consumer() | allow.secret_key())]


def application(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """One order: the guard first, then the look-up, which the proof narrows."""
    access = GUARDS[environ["REQUEST_METHOD"]].require()
    org, subject = ORDERS.get(environ["PATH_INFO"].rpartition("/")[2], (None, None))
    if org != access.org or access.subject not in {None, subject}:
        raise NotFound
    access.confirm(org=org, subject=subject)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"an order of {subject}".encode()]


class Row(NamedTuple):
    what: str
    method: str
    target: str
    headers: Mapping[str, str]
    status: int
    named: str = ""  # the scope that the answer names


def rows(kit: Kit, key: Ed25519PrivateKey) -> list[Row]:
    def member(role: str, org: str = "org_1") -> dict[str, str]:
        now = int(time.time())
        claims = {"iss": LOGIN, "sub": "user_1", "aud": "dashboard", "iat": now, "exp": now + 300, "org_id": org}
        head = {"typ": "at+jwt", "kid": "login"}
        token = jwt.encode({**claims, "roles": [role]}, key, algorithm="EdDSA", headers=head)
        return {"Authorization": f"Bearer {token}"}

    anna = kit.as_consumer(org="org_1", subject="anna", scopes={"orders:read"})
    page = kit.as_key(org="org_1", scopes={"orders:readonly"})
    return [
        Row("an order of one's organization", "GET", "/orders/1", member("viewer"), 200),
        Row("another organization's order", "GET", "/orders/3", member("viewer"), 404),
        Row("an order that nobody has", "GET", "/orders/9", member("viewer"), 404),
        Row("a viewer writing", "DELETE", "/orders/1", member("viewer"), 403, "orders:write"),
        Row("a viewer writing, another organization's", "DELETE", "/orders/3", member("viewer"), 403, "orders:write"),
        Row("an editor writing", "DELETE", "/orders/1", member("editor"), 200),
        Row("a role that nobody has defined", "GET", "/orders/1", member("owner"), 403, "orders:read"),
        Row("a consumer reading their own", "GET", "/orders/1", anna, 200),
        Row("a consumer reading another consumer", "GET", "/orders/2", anna, 404),
        Row("a key with a scope that only begins alike", "GET", "/orders/1", page, 403, "orders:read"),
    ]


def asked(port: int, row: Row) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(row.method, row.target, headers=dict(row.headers))
        answer = connection.getresponse()
        answer.read()
        return answer.status, (answer.getheader("WWW-Authenticate") or "").partition('scope="')[2].rstrip('"')
    finally:
        connection.close()


def jobs(kit: Kit) -> Iterator[tuple[str, bool, bool]]:
    """What a worker makes of carried texts: what it was given, whether it should be taken, whether it was."""
    forged, elsewhere = Kit(), kit.security
    with kit.security.job("web", org="org_1", scopes={"orders:read"}):
        good, other = elsewhere.carry(name="report"), elsewhere.carry(name="another job")
    with forged.security.job("web", org="org_2", scopes={"orders:read"}):
        strange = forged.security.carry(name="report")
    texts = {
        "a job resumed with what was carried for it": (good, True),
        "a job resumed under a forged context": (strange, False),
        "a job resumed with what another job was given": (other, False),
        "a job resumed under a changed context": (f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}", False),
    }
    for what, (text, expected) in texts.items():
        try:
            with kit.security.resume(text, name="report") as job:
                taken = job.org == "org_1"
        except InvalidCode:
            taken = False
        yield what, expected, taken


def main() -> int:
    """Print the table; how many answers differ from what was expected."""
    key, wrong = Ed25519PrivateKey.generate(), 0
    jwk = json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    issuer = Issuer(
        LOGIN,
        organizations={"org_1", "org_2"},
        audience="dashboard",
        roles={role: role for role in (*ROLES, "owner")},
        jwks={"keys": [{**jwk, "kid": "login", "use": "sig", "alg": "EdDSA"}]},
    )
    kit = Kit(issuers=[issuer], roles=ROLES)
    kit.clock.advance(int(time.time()) - kit.clock())
    with wsgi_served(GateMiddleware(application, kit.security.gate(RULES))) as port:
        for row in rows(kit, key):
            status, named = asked(port, row)
            right = (status, named) == (row.status, row.named)
            wrong += not right
            print(f"  {row.what:42} {status}{f', lacks {named}' if named else ''}{'' if right else '  <-- WRONG'}")
    for what, expected, taken in jobs(kit):
        wrong += expected is not taken
        print(f"  {what:48} {'taken up' if taken else 'refused'}{'' if expected is taken else '  <-- WRONG'}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
