"""Ways for a program that root starts as another user to reach its files below folders that are closed to that user.

No folder's permissions are changed: what /root and the like protect stays protected.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import Permanent

# A process reaches the folder that it was started in, whatever lies above it; through this name it needs no other.
OWN_FOLDER = Path("/proc/self/cwd")


def is_open(path: Path) -> bool:
    """Tell whether every user may pass through all folders that lead to a path."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents if folder.exists())


def own_name(folder: Path) -> str:
    """Return the path by which a process started in a folder finds it, as any user.

    Raises:
        Permanent: There is no such path here.
    """
    if is_open(folder):
        return str(folder)
    if not OWN_FOLDER.is_dir():
        raise Permanent(f"Postgres cannot run as root, and other users cannot reach {folder}: name a folder that they "
                        "can by --data-dir or RATCHET_DATA_DIR, for example /var/lib/ratchet, or do not run as root")
    return str(OWN_FOLDER)


def programs(tree: Path, parts: Sequence[str], name: str) -> Path:
    """Return a tree of programs where every user reaches it: itself, or a copy in the folder for temporary files.

    The copy is made once for each version and used again; only root can have made or changed it.

    Args:
        parts: The folders of the tree that are needed, those that the programs find from their own place included.
        name: What the copy's name starts with.

    Raises:
        Permanent: The folder for temporary files is closed too, or somebody else has made that copy.
    """
    files = sorted(file.relative_to(tree) for part in parts for file in (tree / part).rglob("*") if file.is_file())
    if is_open(tree / files[0]) and all((tree / file).stat().st_mode & stat.S_IROTH for file in files):
        return tree
    sizes = "\n".join(f"{file} {(tree / file).stat().st_size} {(tree / file).stat().st_mtime_ns}" for file in files)
    copy = Path(tempfile.gettempdir()) / f"{name}-{hashlib.sha256(sizes.encode()).hexdigest()[:16]}"
    if not is_open(copy):
        raise Permanent(f"Postgres cannot run as root, and other users reach neither {tree} nor {copy.parent}: set "
                        "TMPDIR to a folder that they reach, or do not run as root")
    if copy.is_symlink() or copy.exists():
        told = copy.lstat()
        if told.st_uid != os.geteuid() or not stat.S_ISDIR(told.st_mode) or told.st_mode & 0o022:
            raise Permanent(f"{copy} was not made by Ratchet: take it away")
        if all((copy / file).is_file() for file in files):  # what cleans temporary files up may have taken some
            return copy
        shutil.rmtree(copy)
    making = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=copy.parent))
    for file in files:
        (making / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / file, making / file)
        (making / file).chmod(0o755 if os.access(tree / file, os.X_OK) else 0o644)
    for folder in (making, *(inner for inner in making.rglob("*") if inner.is_dir())):
        folder.chmod(0o755)
    try:
        making.rename(copy)
    except OSError:  # another `ratchet up` was first
        shutil.rmtree(making)
    return copy
