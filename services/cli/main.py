"""The ``ratchet`` command: parses the arguments and hands over to the group that owns the sub-command."""

import argparse
import errno
import sys
from collections.abc import Sequence

from schemas.errors import RatchetError
from services.cli import bench, demo, loops, registry, services, stack
from shared.settings import InvalidSetting

DESCRIPTION = "Ratchet turns what users do into a better model, continuously."
EXAMPLES = """\
examples:
  ratchet up                            start everything on this machine, with nothing installed beforehand
  ratchet status                        what runs, where, and which version serves
  ratchet demo                          watch a model learn live
  ratchet versions support-intents      the versions of a loop, newest first
  ratchet rollback support-intents --reason "answers got worse since noon"

`ratchet COMMAND --help` shows a command's own options and examples.
"""
USAGE = 2
# What is wrong with a folder or disk that was named, and not with the program.
_SURROUNDINGS = frozenset({errno.EACCES, errno.EDQUOT, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC,
                           errno.ENOTDIR, errno.EPERM, errno.EROFS})


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command; imports no service."""
    top = argparse.ArgumentParser("ratchet", description=DESCRIPTION, epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (stack, loops, services, registry, demo, bench):
        group.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. 1: refused or failed, 2: wrong usage or settings."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except InvalidSetting as exc:
        return _fail(exc, USAGE)
    except RatchetError as exc:
        return _fail(exc, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ratchet versions | head`
        sys.stderr.close()
        return 0
    except OSError as exc:
        if exc.errno not in _SURROUNDINGS:
            raise
        named = f"{exc.filename}: " if exc.filename else ""
        return _fail(f"{named}{exc.strerror}", 1)


def _fail(exc: Exception | str, status: int) -> int:
    print(f"ratchet: {exc}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
