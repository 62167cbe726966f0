import copy
import hmac
import pickle
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, strategies as st

from bartizan.core.encoding import checksum, joined, unbase62
from bartizan.core.ring import Purpose, SecretRing, Subkey, new_root
from bartizan.errors import Misuse

ROOT = "bzs_00000001_" + "1" * 43
ROOT += checksum(ROOT)


def test_subkeys_are_hkdf_of_rfc_5869() -> None:
    root = unbase62(ROOT[13:-6], 32)
    assert root is not None
    for purpose in Purpose:
        for environment in ("live", "test"):
            for issuer in ("", "https://issuer.example"):
                info = joined(b"bartizan/v1", purpose.value.encode(), environment.encode(), issuer.encode())
                expected = HKDF(SHA256(), 32, b"bartizan/v1", info).derive(root)
                key = SecretRing([ROOT]).subkey("00000001", purpose, environment, issuer)
                assert key is not None
                assert key.mac(b"message") == hmac.digest(expected, b"message", "sha256")


def test_purposes_pairwise_distinct() -> None:
    ring = SecretRing([ROOT, new_root()])
    macs = [
        key.mac(b"same")
        for root_id in ring
        for purpose in Purpose
        for environment in ("live", "test")
        for issuer in ("", "a", "b")
        if (key := ring.subkey(root_id, purpose, environment, issuer)) is not None
    ]
    assert len(set(macs)) == len(macs) == 2 * len(Purpose) * 2 * 3


@given(st.binary(min_size=32, max_size=32), st.binary(), st.binary())
def test_prefix_states_give_hmac(key: bytes, head: bytes, rest: bytes) -> None:
    expected = hmac.digest(key, head + rest, "sha256")
    begun = Subkey("id", key).begin(head)
    assert begun.finish(rest) == expected
    assert begun.finish(rest) == expected  # a state is used many times


def test_passphrase_secret_refused() -> None:
    for text in (
        "", "changeme" * 4, "bzs_", "x" * 63, ROOT[:-1], ROOT + "0", ROOT + "\n", " " + ROOT, ROOT.lower(),
        ROOT[:-1] + "é", "bzs_00000001_" + "z" * 43 + checksum("bzs_00000001_" + "z" * 43), "bzs_00000001_" + "1" * 49,
    ):  # fmt: skip
        with pytest.raises(Misuse, match="python -m bartizan secret"):
            SecretRing([text])


def test_ring_takes_a_list_of_different_roots() -> None:
    with pytest.raises(Misuse, match="not one text"):
        SecretRing(ROOT)
    with pytest.raises(Misuse, match="empty"):
        SecretRing([])
    with pytest.raises(Misuse, match="same id"):
        SecretRing([ROOT, ROOT])
    newest = new_root()
    ring = SecretRing([newest, ROOT])
    assert ring.newest == newest[4:12]
    assert list(ring) == [newest[4:12], "00000001"]
    assert ring.subkey("unknown0", Purpose.APIKEY_PEPPER, "live") is None


def test_secrets_do_not_show_or_travel() -> None:
    ring = SecretRing([ROOT])
    key = ring.subkey("00000001", Purpose.APIKEY_PEPPER, "live")
    assert key is not None
    for value in (ring, key):
        assert "1" * 43 not in repr(value)
        with pytest.raises(Misuse):
            pickle.dumps(value)
        with pytest.raises(Misuse):
            copy.copy(value)


def test_the_command_makes_a_good_secret() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "bartizan", "secret"], capture_output=True, text=True, check=True, timeout=60
    )
    SecretRing([out.stdout.strip()])
    assert subprocess.run([sys.executable, "-m", "bartizan"], capture_output=True, timeout=60).returncode != 0
