"""The secrets of one embedded stack: made once, kept in one file that only its owner reads."""

import os
import secrets
from pathlib import Path

import msgspec

from schemas.errors import Permanent
from services.stack.redis import new_password

FILE = "secrets.json"


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Passwords of the servers, the default keys, and the key of the pseudonyms."""

    postgres_password: str
    redis_password: str
    collect_key: str
    infer_key: str
    operate_key: str
    pseudonym_key: str


def load_or_make(data_dir: Path) -> Secrets:
    """Return the stack's secrets; the first call makes them.

    Raises:
        Permanent: The file is there but unreadable. It is never replaced: the databases know its passwords, and
            with another pseudonym key the same user would become another subject.
    """
    file = data_dir / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Secrets)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as exc:
        raise Permanent(f"{file} is damaged ({exc}); bring it back from a backup: the data was made with it") from exc
    made = Secrets(
        postgres_password=new_password(), redis_password=new_password(),
        collect_key=f"collect_{secrets.token_urlsafe(18)}", infer_key=f"infer_{secrets.token_urlsafe(18)}",
        operate_key=f"operate_{secrets.token_urlsafe(18)}", pseudonym_key=secrets.token_hex(32),
    )
    write_private(file, msgspec.json.format(msgspec.json.encode(made)))
    return made


def write_private(file: Path, data: bytes) -> None:
    """Replace a file in one step, readable by its owner only and on disk when this returns."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(file)
