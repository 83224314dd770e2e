"""Pseudonyms: a user's id is replaced by a keyed hash before it is written anywhere."""

import hashlib
import hmac


class Pseudonymiser:
    """Turns ids into pseudonyms with one secret key.

    HMAC-SHA-256 (RFC 2104), cut to 128 bits: without the key an id can neither be read back nor guessed and checked.
    """

    def __init__(self, key: str) -> None:
        if len(key) < 16:
            raise ValueError("the pseudonym key is shorter than 16 characters")
        self._hmac = hmac.new(key.encode(), digestmod=hashlib.sha256)

    def subject(self, project: str, user_id: str) -> str:
        """Return the subject of a project's user: ``s_`` and 32 hex digits; empty for an empty id."""
        return "s_" + self._digest(f"subject\0{project}\0{user_id}") if user_id else ""

    def field(self, project: str, value: str) -> str:
        """Return the pseudonym of any other field's value: ``h_`` and 32 hex digits."""
        return "h_" + self._digest(f"field\0{project}\0{value}")

    def _digest(self, text: str) -> str:
        mac = self._hmac.copy()
        mac.update(text.encode("utf-8", "surrogatepass"))
        return mac.hexdigest()[:32]
