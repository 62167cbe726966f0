"""Keys that would let a stranger sign: what the numbers of a JWK must be before anything is done with them. Pure."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from bartizan.core.encoding import unbase64url

_P = 2**255 - 19
_ORDER_8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
_LOW_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})  # y of the points of order 1, 2, 4 and 8 (RFC 8032)
_ROCA_PRIMES = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip


class UnusableKey(ValueError):  # noqa: N818 - named after the finding
    """A key that signs or verifies nothing here; the text says why, and is a constant."""


def checked_numbers(jwk: Mapping[str, Any], names: Collection[str]) -> dict[str, bytes]:
    """The bytes of these members, as far as they are there; `UnusableKey` where the key is a weak one."""
    if "oth" in jwk:
        raise UnusableKey("an RSA key of more than two primes")
    raw = {name: _bytes(jwk[name]) for name in names if name in jwk}
    if jwk["kty"] == "oct" and len(raw["k"]) < 32:
        raise UnusableKey("a secret of fewer bytes than the hash (RFC 7518 section 3.2)")
    if jwk["kty"] == "OKP":
        y = int.from_bytes(raw["x"], "little") & (2**255 - 1)
        if len(raw["x"]) != 32 or y >= _P or y in _LOW_ORDER:
            raise UnusableKey("not a point of Ed25519, or one of low order, for which one signature fits everything")
    if jwk["kty"] == "RSA":
        _check_rsa(raw["n"], raw["e"])
    return raw


def _bytes(value: Any) -> bytes:
    data = unbase64url(value) if isinstance(value, str) else None
    if not data:
        raise UnusableKey("a member is not base64url")
    return data


def _check_rsa(modulus: bytes, exponent: bytes) -> None:
    n, e = int.from_bytes(modulus), int.from_bytes(exponent)
    if modulus[0] == 0 or exponent[0] == 0:
        raise UnusableKey("a number with leading zeros (RFC 7518 section 2)")
    if not 2048 <= n.bit_length() <= 8192 or n % 2 == 0:
        raise UnusableKey("an RSA key of fewer than 2048 bits, or more than 8192")
    if not 65537 <= e < 2**64 or e % 2 == 0:
        raise UnusableKey("an RSA exponent below 65537, or a huge or even one")
    if all(n % prime in remainders for prime, remainders in _roca()):
        raise UnusableKey("an RSA key that can be factored (ROCA, CVE-2017-15361)")


@lru_cache(maxsize=1)
def _roca() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each small prime, the remainders of every modulus that the broken generator makes: powers of 65537."""
    return tuple([(prime, frozenset(pow(65537, i, prime) for i in range(prime))) for prime in _ROCA_PRIMES])
