"""API keys: which key lets a caller in, and under which name."""

import base64
import hmac
from collections.abc import Mapping

from shared.settings import Keys


def from_headers(headers: Mapping[str, str]) -> str | None:
    """Return the key in a request's headers, or None: Basic user, Bearer, ``X-Write-Key`` or ``X-API-Key``.

    Args:
        headers: With lower-case names.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic" and value:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0] or None
        except ValueError:  # neither base64, nor ASCII, nor UTF-8 inside
            return None
    return headers.get("x-write-key") or headers.get("x-api-key") or None


def name_of(keys: Keys, presented: str | None) -> str | None:
    """Return the name of the presented key, or None when it is none of them. Compares in constant time."""
    found = None
    for name, key in keys.items():
        if presented is not None and hmac.compare_digest(key.encode(), presented.encode("utf-8", "surrogatepass")):
            found = name
    return found
