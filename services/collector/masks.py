"""Finds ids in texts, in any letter case and as they look in URLs, and puts pseudonyms in their place."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

# An id shorter than this is replaced only where it is the whole value: cutting "u1" out of every text would destroy it.
# A short number is left even there, outside of the fields that hold ids: the "7" of user 7 is as likely a rating or a
# label, and replacing that would corrupt what is learned.
MIN_INSIDE_TEXT = 6
# Bounded, or a long text without an "@" would take quadratic time.
_ADDRESS = re.compile(r"[\w.+-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", re.IGNORECASE)
_UNRESERVED = re.compile(r"[\w.~-]*", re.ASCII)


class Mask:
    """Replaces ids by their pseudonyms.

    Args:
        pseudonyms: By id.
        address: Makes the pseudonym of an e-mail address, whoever's it is; None leaves them alone.
    """

    def __init__(self, pseudonyms: Mapping[str, str], *, address: Callable[[str], str] | None = None) -> None:
        self._address = address
        self._whole = {id_.casefold(): pseudonym for id_, pseudonym in pseudonyms.items()
                       if len(id_) >= MIN_INSIDE_TEXT or not id_.isdecimal()}
        # Longest first: an id may contain another one.
        self._inside = sorted((id_ for id_ in pseudonyms if len(id_) >= MIN_INSIDE_TEXT), key=len, reverse=True)
        self._folded = [id_.casefold() for id_ in self._inside]
        self._in_urls = not all(map(same_in_url, self._inside))
        self._pseudonyms = [pseudonyms[id_] for id_ in self._inside]
        self._pattern: re.Pattern[str] | None = None

    def text(self, text: str) -> str:
        """Return a text without the ids."""
        text = self._without_ids(text)
        address = self._address
        return text if address is None else _ADDRESS.sub(lambda found: address(found[0]), text)

    def _without_ids(self, text: str) -> str:
        folded = text.casefold()
        if folded in self._whole:
            return self._whole[folded]
        # Building the pattern costs more than all the rest, and most texts name nobody.
        if not (any(id_ in folded for id_ in self._folded) or (self._in_urls and ("%" in text or "+" in text))):
            return text
        if self._pattern is None:
            self._pattern = re.compile("|".join(f"({''.join(map(_either, id_))})" for id_ in self._inside), re.I)
        return self._pattern.sub(lambda found: self._pseudonyms[(found.lastindex or 1) - 1], text)

    def value(self, value: Any) -> Any:
        """Return a JSON value without the ids, in keys as well; numbers are replaced when they are a long id."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(child) for key, child in value.items()}
        if isinstance(value, list):
            return [self.value(child) for child in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self._inside:
            id_ = id_text(value)
            return self._whole.get(id_, value) if len(id_) >= MIN_INSIDE_TEXT else value
        return value


def id_text(value: str | float) -> str:
    """Return an id as text; a whole number sent as a float is the same id as the integer."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def same_in_url(id_: str) -> bool:
    """Tell whether an id looks the same in a URL (RFC 3986, section 2.3)."""
    return _UNRESERVED.fullmatch(id_) is not None


def _either(character: str) -> str:
    """A pattern for a character of an id, as it is or as in a URL; each sender escapes another set of them."""
    if same_in_url(character):
        return re.escape(character)
    ways = {character, quote(character, safe="", errors="surrogatepass")}
    # In other letter case a URL has other bytes for it: %C3%A9 and %C3%89.
    ways |= {quote(other, errors="surrogatepass") for other in (character.lower(), character.upper())}
    if character == " ":
        ways.add("+")
    return f"(?:{'|'.join(map(re.escape, sorted(ways)))})"
