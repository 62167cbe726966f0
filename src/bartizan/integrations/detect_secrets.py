"""A plugin of detect-secrets for what Bartizan makes: `detect-secrets scan --no-verify --plugin detect_secrets.py`.

The file stands alone: where it scans, nothing of Bartizan has to be installed. It sends nothing to anybody, and reports
no key whose checksum is wrong.
"""

import re
from collections.abc import Generator
from zlib import crc32

from detect_secrets.plugins.base import RegexBasedDetector

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class BartizanDetector(RegexBasedDetector):
    """Finds secret API keys, root secrets, and signing secrets of webhooks."""

    secret_type: str = "Bartizan Secret"  # noqa: S105 - what a finding is called
    denylist: tuple[re.Pattern[str], ...] = (
        re.compile(r"((?:[a-z][a-z0-9]{1,15}_)?sk_(?:live|test)_[0-9A-Za-z]{16}_[0-9A-Za-z]{49})(?![0-9A-Za-z_])"),
        re.compile(r"(bzs_[0-9A-Za-z]{8}_[0-9A-Za-z]{49})(?![0-9A-Za-z_])"),
        re.compile(r"(whsec_[A-Za-z0-9+/]{43}=|whsk_[A-Za-z0-9+/]{86}==)"),
    )

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """Each secret in a line."""
        for found in super().analyze_string(string):
            if found.startswith(("whsec_", "whsk_")):
                yield found
            else:
                yield from _summed(found)


def _summed(text: str) -> list[str]:
    """The text from where its last six characters are the CRC-32 of those before them, or nothing.

    What looks like a brand may begin with the end of something else, such as an escaped newline.
    """
    number = 0
    for character in text[-6:]:
        number = number * 62 + _DIGITS.index(character)
    starts = range(text.find("sk_") + 1) if "sk_" in text[:20] else [0]
    return [text[start:] for start in starts if crc32(text[start:-6].encode()) == number][:1]
