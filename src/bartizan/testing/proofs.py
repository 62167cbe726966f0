"""`ProofKey`: the key of a client, which proves on every request that it has it (RFC 9449)."""

import json
from collections.abc import Callable
from secrets import token_bytes, token_urlsafe
from time import time

from bartizan.core.encoding import base64url, hashed
from bartizan.core.request import Request
from bartizan.credentials.jws import new_signing_key
from bartizan.errors import Misuse
from bartizan.sessions.binding import target_of


class ProofKey:
    """A fresh key for ES256. `jwk` is its public half, as every proof says it; `clock` gives the time of its proofs."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._key = new_signing_key("ES256", token_bytes)
        self._clock = clock
        public = self._key.verification.public or {}
        self.jwk: dict[str, str] = {name: public[name] for name in ("kty", "crv", "x", "y")}

    @property
    def thumbprint(self) -> str:
        """What tokens call it that are bound to it: `cnf.jkt` (RFC 7638)."""
        return self._key.verification.thumbprint

    def proof(
        self, method: str, url: str, *, token: str | None = None, nonce: str | None = None, **claims: object
    ) -> str:
        """A new proof for one request, with the access token and the nonce that it goes with.

        `claims` replace those that a good proof has, or leave them out where they are None.
        """
        said: dict[str, object] = {"jti": token_urlsafe(16), "htm": method, "htu": url, "iat": int(self._clock())}
        if token is not None:
            said["ath"] = hashed(token)
        if nonce is not None:
            said["nonce"] = nonce
        said |= claims
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk}
        body = {name: value for name, value in said.items() if value is not None}
        message = ".".join(base64url(json.dumps(part).encode()) for part in (head, body))
        return f"{message}.{base64url(self._key.sign(message.encode()))}"

    def request(self, method: str, url: str, *, token: str | None = None, nonce: str | None = None) -> Request:
        """A request with a new proof, for what takes one: `sessions.start(…, proof=key.request("POST", url))`."""
        target = target_of(url)
        if target is None:
            raise Misuse("url is https://host/path")
        pairs = self.headers(method, url, token=token, nonce=nonce).items()
        return Request(method, target[1], [(k.lower().encode(), v.encode()) for k, v in pairs], None, "https")

    def headers(self, method: str, url: str, *, token: str | None = None, nonce: str | None = None) -> dict[str, str]:
        """The headers of a request with a new proof, and with the access token that is bound to the key."""
        proof = {"DPoP": self.proof(method, url, token=token, nonce=nonce)}
        return proof if token is None else {"Authorization": f"DPoP {token}", **proof}
