"""Clients of a site that have a key, or a browser with the cookie of their session; and what a thief has of them."""

import json
from typing import Any

from cookie_places import ORIGIN, Reply, Site

from bartizan.testing import ProofKey


class Client:
    """Signs in and stays in with tokens in bodies; `key` proves it where the client has one.

    A good client asks once more with the nonce that it is told (RFC 9449 section 8); `jar` is its cookies.
    """

    def __init__(self, site: Site, key: ProofKey | None = None) -> None:
        self.site = site
        self.key = key
        self.jar: dict[str, str] = {}
        self.nonce: str | None = None
        self.access = ""
        self.refresh_token = ""
        self.session = ""

    def copy(self, **changed: Any) -> "Client":
        """Another one with the same tokens: a thief, unless the key goes along."""
        other = Client(self.site, changed.get("key"))
        other.jar = dict(changed.get("jar", {}))
        other.nonce, other.access, other.refresh_token = self.nonce, self.access, self.refresh_token
        other.session = self.session
        return other

    def proof(self, method: str, path: str, *, token: str | None = None, **claims: Any) -> str:
        assert self.key is not None
        given: dict[str, Any] = {"nonce": self.nonce, **claims}
        url = given.pop("url", ORIGIN + path)
        return self.key.proof(method, url, token=token, **given)

    def ask(self, method: str, path: str, *headers: tuple[str, str], body: Any = None) -> Reply:
        """One request, as it is said."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = [("Content-Type", "application/json")] if data else []
        cookies = [("Cookie", "; ".join(f"{name}={value}" for name, value in self.jar.items()))] if self.jar else []
        reply = self.site.ask(method, path, [*headers, *kind, *cookies], data)
        self.nonce = reply.header("dpop-nonce") or self.nonce
        for name, value in reply.cookies.items():
            self.jar[name] = value
        return reply

    def get(self, path: str = "/me", *, method: str = "GET", again: bool = True) -> Reply:
        """A request with the access token, in the scheme that it is for."""
        if self.key is None:
            return self.ask(method, path, ("Authorization", f"Bearer {self.access}"))
        proof = self.proof(method, path, token=self.access)
        reply = self.ask(method, path, ("Authorization", f"DPoP {self.access}"), ("DPoP", proof))
        return self.get(path, method=method, again=False) if again and wants_nonce(reply) else reply

    def post(self, path: str, again: bool = True, **sent: Any) -> Reply:
        """A request to an endpoint, with a proof and without the access token."""
        proofs = [] if self.key is None else [("DPoP", self.proof("POST", path))]
        reply = self.ask("POST", path, *proofs, body=sent)
        return self.post(path, again=False, **sent) if again and wants_nonce(reply) else reply

    def keep(self, reply: Reply) -> Reply:
        """Take the tokens of an answer."""
        if reply.status == 200:
            said = reply.json
            self.access, self.refresh_token = said["accessToken"], said["refreshToken"]
            self.session = said["session"]["id"]
        return reply

    def guest(self) -> Reply:
        return self.keep(self.post("/auth/guest"))

    def sign_in(self, address: str = "anna@shop.example") -> Reply:
        asked = self.ask("POST", "/auth/otp/request", body={"address": address})
        sent = {"requestId": asked.json["requestId"], "code": self.site.code(), "address": address}
        return self.keep(self.post("/auth/otp/verify", **sent))

    def refresh(self) -> Reply:
        return self.keep(self.post("/auth/refresh", refreshToken=self.refresh_token))


def wants_nonce(reply: Reply) -> bool:
    return 'error="use_dpop_nonce"' in (reply.header("www-authenticate") or "")


def bound(adapter: str, binding: str = "dpop", **arguments: Any) -> Site:
    return Site(adapter, **{"transport": "body", "origins": [ORIGIN], "binding": binding, **arguments})
