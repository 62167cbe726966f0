"""An identity provider in this process: its keys, its documents, its tokens."""

import json
from collections.abc import Mapping
from typing import Any

from bartizan.core.encoding import base64url
from bartizan.core.ports import fresh
from bartizan.credentials.jws import SigningKey, new_signing_key

NOW = 1_700_000_000
URL = "https://login.example"


def compact(key: SigningKey, claims: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    parts = [base64url(json.dumps(part).encode()) for part in (header, claims)]
    return ".".join([*parts, base64url(key.sign(".".join(parts).encode()))])


class Provider:
    """`url` issues tokens with the newest of its keys; `jwks` and `metadata` are its documents."""

    def __init__(self, url: str = URL, *, algorithm: str = "EdDSA", base: str | None = None) -> None:
        self.url = url
        self.base = base or url
        self.algorithm = algorithm
        self.keys: list[SigningKey] = []
        self.rotate()

    def rotate(self) -> None:
        self.keys.insert(0, new_signing_key(self.algorithm, fresh))

    @property
    def kid(self) -> str:
        return self.keys[0].verification.kid

    @property
    def document(self) -> dict[str, Any]:
        return {"keys": [dict(key.verification.public or {}) for key in self.keys]}

    @property
    def jwks(self) -> bytes:
        return json.dumps(self.document).encode()

    @property
    def metadata(self) -> bytes:
        return json.dumps({"issuer": self.url, "jwks_uri": f"{self.base}/keys"}).encode()

    def claims(self, now: int = NOW, **claims: Any) -> dict[str, Any]:
        given = {
            "iss": self.url,
            "sub": "user_1",
            "aud": "dashboard",
            "iat": now,
            "exp": now + 600,
            "org_id": "org_1",
            **claims,
        }
        return {name: value for name, value in given.items() if value is not None}

    def token(self, now: int = NOW, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        head = {"alg": self.algorithm, "typ": "at+jwt", "kid": self.kid, **(header or {})}
        return compact(self.keys[0], self.claims(now, **claims), {n: v for n, v in head.items() if v is not None})
