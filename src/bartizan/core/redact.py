"""What must never be printed, as patterns, and texts and values without it.

The patterns are data: what a secret looks like, and how much of it may stay. They are looked for in the text itself, in
its percent-encoded or escaped parts, and in what looks like base64 (RFC 4648) and has one of them inside. Every search
is linear in the length of the text. A line in which nothing looks like a secret costs a few searches for literals.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Collection, Mapping
from re import ASCII, Match, compile as regex
from typing import Any, NamedTuple

from bartizan.errors import Misuse

MARK = "[redacted]"
DEEPEST = 20  # levels of a value that are looked at
MOST_PARTS = 10_000  # of a value; what is beyond them is not printed
LONGEST_HELD = 65_536  # characters of one word that a stream waits for


class Pattern(NamedTuple):
    """A kind of secret. The first group of `regex` is what may stay; where the second is not met, all of it stays.

    A text without any of `hints` is not searched. A search has to be linear: what can be long stands last, or cannot
    fail.
    """

    name: str
    hints: tuple[str, ...]
    regex: str


_KEY = r"sk_(?:live|test)_[0-9A-Za-z]{16}_"
_B64 = r"[A-Za-z0-9_-]"
_TOKEN68 = r"[A-Za-z0-9._~+/=-]"  # RFC 9110 section 11.2
PATTERNS: tuple[Pattern, ...] = (
    Pattern("secret_key", ("k_live_", "k_test_"), rf"({_KEY})([0-9A-Za-z]+)"),  # cut off, too; its public name stays
    Pattern("root_secret", ("bzs_",), r"(bzs_[0-9A-Za-z]{8}_)([0-9A-Za-z]+)"),
    Pattern("webhook_secret", ("whsec_", "whsk_"), r"(whs(?:ec|k)_)((?:[A-Za-z0-9+/=_-]|%2[BbFf]|%3[Dd])+)"),
    # links, refresh tokens and all else of `core.stamp`: version and expiry come first
    Pattern("stamp", ("_AQ",), rf"([a-z]{{2,12}}_)(AQ{_B64}{{20,}}(?:\.{_B64}*)?)"),
    Pattern("token", ("eyJ",), rf"()eyJ{_B64}*+((?:\.{_B64}*+)+)?"),  # JWS, JWE, and cookies of that form
    Pattern(
        "authorization",
        ("earer ", "asic "),
        rf"((?:[Bb]earer|[Bb]asic) +)(?!(?:[a-z][a-z0-9]{{1,15}}_)?(?:{_KEY}|pk_))"
        rf"((?=[A-Za-z._~+/=-]{{0,100}}(?:[0-9]|[a-z][A-Z])){_TOKEN68}{{8,}})",
    ),
    Pattern(
        "query",
        ("?",),
        r"([?&;](?i:access_token|refresh_token|id_token|token|api_?key|key|client_secret|secret|password|code|sig|"
        r"signature)=)([^&;\s\"'<>\\]+)",
    ),
    Pattern(
        "private_key",
        ("PRIVATE KEY-----",),
        r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)((?:[^-]|-(?!----END))++(?:-----END[A-Z -]{0,50})?)",
    ),
)

# Whose value is left out whole, whatever it looks like; in lower case, with underscores.
NAMES = frozenset(
    [
        "authorization",
        "proxy_authorization",
        "cookie",
        "set_cookie",
        "password",
        "passwd",
        "secret",
        "secrets",
        "client_secret",
        "api_key",
        "apikey",
        "x_api_key",
        "token",
        "access_token",
        "refresh_token",
        "id_token",
        "private_key",
        "webhook_secret",
        "signing_secret",
    ]
)


def _inside(text: str) -> set[str]:
    """What base64 makes of a text wherever it begins within three bytes, without what depends on its neighbours."""
    found = set()
    for before in range(3):
        encoded = b64encode(bytes(before) + text.encode()).decode()
        whole = (before + len(text)) * 8 // 6  # sextets that are the text's alone
        found.add(encoded[-(-before * 8 // 6) : whole])
    return found


_IN_BASE64 = tuple(sorted(_inside("sk_") | _inside("whsec_") | _inside("bzs_") | _inside("eyJ")))
_UNDERSCORED = regex(r"_(?:(?<=ve_|st_|ec_|sk_|zs_)|(?=AQ))[\w%+/=-]", ASCII).search
_ESCAPED = regex(r"%(?:25){0,4}(?:2[DEde]|[3-7][0-9A-Fa-f])|(?<!\\)\\{1,16}(?:u00|x)[2-7][0-9A-Fa-f]").search
_ESCAPE = regex(r"(?:%(?:25){0,4}|\\{1,16}u00|\\{1,16}x)([2-7][0-9A-Fa-f])")
_ESCAPED_RUN = regex(
    r"(?:[A-Za-z0-9_.~+/=-]|%(?:25){0,4}[0-9A-Fa-f]{2}|\\{1,16}u00[0-9A-Fa-f]{2}|\\{1,16}x[0-9A-Fa-f]{2})+"
)
_BASE64_RUN = regex(
    r"(?:[A-Za-z0-9+/]{64,80}(?:\r?\n|\\r\\n|\\n|(?:%0[Dd])?%0[Aa]))+[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9+/_-]{12,}={0,2}"
)  # the first in lines (RFC 2045 section 6.8, RFC 7468)
_NEWLINE = regex(r"\r?\n|\\r\\n|\\n|(?:%0[Dd])?%0[Aa]")
_WORD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~+/=%\\-"


class Redactor:
    """Takes what must not be printed out of texts, bytes and values.

    `more` are further patterns, `names` further names whose value is left out whole. What it was given is never
    changed: it is returned as it is, or a copy without the secrets.
    """

    __slots__ = ("_few", "_names", "_patterns")

    def __init__(self, more: Collection[Pattern] = (), names: Collection[str] = ()) -> None:
        if isinstance(names, str):
            raise Misuse("names is a collection of names, not one text")
        for pattern in more:
            if regex(pattern.regex).groups != 2 or not pattern.hints or not all(pattern.hints):
                raise Misuse("a pattern has hints, and two groups: what may stay, and the secret")
        self._patterns = [(pattern.hints, regex(pattern.regex).sub) for pattern in (*PATTERNS, *more)]
        self._few = (*_IN_BASE64, *(hint for pattern in more for hint in pattern.hints))
        self._names = NAMES | {_normal(name) for name in names}

    def text(self, text: str) -> str:
        """The text without secrets."""
        if (
            _UNDERSCORED(text) is None
            and "eyJ" not in text
            and "earer " not in text
            and "asic " not in text
            and "?" not in text
            and "%" not in text
            and "\\" not in text
            and "PRIVATE" not in text
        ):
            for part in self._few:
                if part in text:
                    break
            else:
                return text
        return self._searched(text)

    def bytes(self, data: bytes) -> bytes:
        """The bytes without secrets, read as a superset of ASCII."""
        text = data.decode("latin-1")
        found = self.text(text)
        return data if found is text else found.encode("latin-1")

    def value(self, value: Any, name: object = None) -> Any:
        """A value of any kind without secrets: mappings and collections inside and out, objects by what they print."""
        return self._value(value, name, 0, [MOST_PARTS])

    def _searched(self, text: str) -> str:
        found = text
        if ("%" in found or "\\" in found) and _ESCAPED(found):
            found = _ESCAPED_RUN.sub(self._unescaped, found)
        found = self._found(found)
        return text if found == text else found

    def _found(self, text: str) -> str:
        text = self._plain(text)
        if any(part in text for part in _IN_BASE64):
            text = _BASE64_RUN.sub(self._decoded, text)
        return text

    def _plain(self, text: str) -> str:
        for hints, sub in self._patterns:
            for hint in hints:
                if hint in text:
                    text = sub(_without, text)
                    break
        return text

    def _unescaped(self, run: Match[str]) -> str:
        text = run[0]
        for _ in range(4):  # escaped that often, at most
            decoded = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
            if decoded == text:
                break
            text = decoded
        found = self._found(text)
        return run[0] if found == text else found

    def _decoded(self, run: Match[str]) -> str:
        if not any(part in run[0] for part in _IN_BASE64):
            return run[0]
        text = _NEWLINE.sub("", run[0]).rstrip("=").replace("-", "+").replace("_", "/")
        for start in range(4):  # wherever the encoding began
            whole = text[start : start + (len(text) - start) // 4 * 4]
            rest = text[start + len(whole) :]
            data = a2b_base64(whole + (rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""))
            decoded = data.decode("latin-1")
            if self._plain(decoded) != decoded:
                return MARK
        return run[0]

    def _value(self, value: Any, name: object, depth: int, left: list[int]) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if isinstance(name, str) and _normal(name) in self._names:
            return MARK
        if kind is str:
            return self.text(value)
        if kind in (int, float):
            return value
        if isinstance(value, (bytes, bytearray)):
            return self.bytes(bytes(value))
        left[0] -= 1
        if depth >= DEEPEST or left[0] < 0:
            return MARK  # in itself, too
        if isinstance(value, Mapping):
            return {
                self._value(key, None, depth + 1, left): self._value(item, key, depth + 1, left)
                for key, item in value.items()
            }
        if kind in (list, tuple, set, frozenset):
            items = [self._value(item, None, depth + 1, left) for item in value]
            try:
                return items if kind is list else kind(items)
            except TypeError:  # what could be in a set is now what cannot
                return items
        return self._printed(value)

    def _printed(self, value: Any) -> Any:
        try:
            shown, told = str(value), repr(value)
        except Exception:  # noqa: BLE001 - whatever an object of somebody else's does when it is asked
            return f"<{type(value).__name__}>"
        clean = self.text(shown)
        if clean != shown:
            return clean
        return value if self.text(told) == told else f"<{type(value).__name__}>"


def _without(match: Match[str]) -> str:
    return match[0] if match[2] is None else f"{match[1] or ''}{MARK}"


def _normal(name: str) -> str:
    return name.lower().replace("-", "_")


class Held:
    """A stream of text without secrets, though one may come in several pieces: what could still grow is held back."""

    __slots__ = ("_held", "_redactor", "_swallows")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._swallows = False

    def feed(self, text: str) -> str:
        """What may be written now: whole lines."""
        held = self._held + text
        if self._swallows:
            left = held.lstrip(_WORD)
            if not left:
                self._held = ""
                return ""
            held, self._swallows = left, False
        end = held.rfind("\n") + 1
        self._held = held[end:]
        out = self._redactor.text(held[:end]) if end else ""
        if len(self._held) > LONGEST_HELD:
            out += self.flush()
            if len(self._held) > LONGEST_HELD:  # one word, and no end of it
                self._held, self._swallows = "", True
                out += MARK
        return out

    def flush(self) -> str:
        """What may be written though its line has not ended: all but the last word, and what says what that is."""
        before = self._held.rstrip(_WORD)
        scheme = before.rstrip(" \t")
        if before and scheme.lower().endswith(("bearer", "basic")):
            before = scheme.rstrip(_WORD)
        out, self._held = self._redactor.text(before), self._held[len(before) :]
        return out

    def end(self) -> str:
        """The rest."""
        out, self._held = self._redactor.text(self._held), ""
        return out


REDACTOR: Redactor = Redactor()
