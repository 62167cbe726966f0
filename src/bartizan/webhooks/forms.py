"""What Twilio signs: the public URL, and behind it the form's fields by name, or in its query a hash of the body.

Name and value stand side by side without a separator, so that two forms may be signed alike: that is the scheme.
"""

from hashlib import sha256
from hmac import compare_digest
from urllib.parse import parse_qsl, urlsplit

from bartizan.errors import InvalidWebhook, MalformedWebhook, Reason

MOST_FIELDS = 1000
BODY_HASH = "bodySHA256"


def signed_by_url(url: str, body: bytes) -> bytes:
    """The bytes that are signed for a body sent to `url`; refused where the body would not be covered."""
    try:
        query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=MOST_FIELDS))
        hashed = query.get(BODY_HASH)
        fields: list[tuple[str, str]] = []
        if hashed is None and body:
            fields = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict",
                max_num_fields=MOST_FIELDS,
            )  # fmt: skip
        whole = (url + "".join(name + value for name, value in sorted(set(fields)))).encode("utf-8")
    except ValueError:  # not a form: JSON without its hash in the URL is not signed at all
        raise MalformedWebhook(Reason.BODY_NOT_SIGNED) from None
    if hashed is not None and not compare_digest(hashed.encode("utf-8"), sha256(body).hexdigest().encode()):
        raise InvalidWebhook(Reason.SIGNATURE_MISMATCH)
    return whole
