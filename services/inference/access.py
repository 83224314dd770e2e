"""Who may call: a key in the headers, checked before anything else."""

from dataclasses import dataclass

from starlette.requests import Request

from schemas.errors import Invalid
from shared.keys import from_headers, name_of
from shared.settings import Keys


class Unauthorized(Invalid):
    """No key, or none that lets anyone in: answered with 401."""


class Forbidden(Invalid):
    """The key is good, but not for this: answered with 403."""


@dataclass(frozen=True)
class Access:
    """The keys of those who may predict, and of operators, who may do that too."""

    infer: Keys
    operate: Keys

    def caller(self, request: Request) -> str:
        """Return the name of the caller's key: Bearer, the user of Basic, or ``X-API-Key``.

        Raises:
            Unauthorized: There is no key, or an unknown one.
        """
        presented = from_headers(request.headers)
        name = name_of(self.infer, presented) or name_of(self.operate, presented)
        if name is None:
            raise Unauthorized("no key" if presented is None else "unknown key", code="unauthorized")
        return name

    def operator(self, request: Request) -> str:
        """Return the name of an operator's key.

        Raises:
            Unauthorized: There is no key, or an unknown one.
            Forbidden: It is no operator's.
        """
        self.caller(request)
        name = name_of(self.operate, from_headers(request.headers))
        if name is None:
            raise Forbidden("this needs an operator's key", code="forbidden")
        return name
