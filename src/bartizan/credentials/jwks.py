"""Key sets: our own configuration's, refused whole, and somebody else's JWKS (RFC 7517), sorted key by key."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bartizan.core.encoding import parsed
from bartizan.credentials.jws import PRIVATE, KeySet, VerificationKey, jwk_of, verification_key
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import Misuse

MOST_KEYS = 100  # of one set


def key_set(keys: Mapping[str, Any] | Sequence[str], algorithms: Collection[str]) -> KeySet:
    """Our own configuration's keys: a JWKS, or PEM and JWK texts. One that is unusable is `Misuse` for all."""
    try:
        if isinstance(keys, Mapping):
            return _unmixed([verification_key(jwk, algorithms) for jwk in _listed(keys)])
        if isinstance(keys, (str, bytes)):
            raise UnusableKey("a JWKS, or a list of texts, is asked for, not one text")
        return _unmixed([verification_key(jwk_of(text), algorithms) for text in keys])
    except UnusableKey as error:
        raise Misuse(f"keys: {error}") from None


def published_key_set(document: bytes | Mapping[str, Any], algorithms: Collection[str]) -> KeySet:
    """The usable public keys of somebody else's JWKS, perhaps none; each bad one is left out by itself.

    A secret or private key that stands in public is known to everybody and so left out, and of a `kid` that occurs
    twice both. A document that is no JWKS is an `UnusableKey`.
    """
    if isinstance(document, bytes):
        try:
            document = parsed(document)
        except ValueError:
            raise UnusableKey("this is no JSON") from None
    found: list[VerificationKey] = []
    listed = _listed(document)
    names = [jwk.get("kid") for jwk in listed if isinstance(jwk, Mapping)]
    for jwk in listed:
        if not isinstance(jwk, Mapping) or jwk.get("kty") == "oct" or PRIVATE & jwk.keys():
            continue
        if "kid" in jwk and names.count(jwk["kid"]) > 1:
            continue
        try:
            found.append(verification_key(jwk, algorithms))
        except UnusableKey:
            continue
    return KeySet({key.kid: key for key in found}.values())


def _unmixed(keys: Sequence[VerificationKey]) -> KeySet:
    if not keys:
        raise UnusableKey("there is none")
    if len({key.public is None for key in keys}) > 1:
        raise UnusableKey("secret and public keys are not in one set")
    return KeySet(keys)


def _listed(document: Any) -> list[Any]:
    keys = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(keys, (list, tuple)) or len(keys) > MOST_KEYS:
        raise UnusableKey(f"a JWKS has a list of at most {MOST_KEYS} keys")
    return list(keys)
