"""Files of the CA: private from their first byte, complete or absent, never overwritten."""

import os
import secrets
from pathlib import Path


class AuthorityError(Exception):
    """The CA cannot do it; the text is for a person and holds no secret."""


def make_private_folder(folder: Path) -> None:
    """Create `folder` for its owner alone, and take everybody else's access when it exists. Raises AuthorityError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise AuthorityError(f"cannot use {folder}: {error.strerror}") from error


def create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that appears whole and synced to disk, or not at all; one that exists already is kept.

    Raises AuthorityError.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _link(draft, path)
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise AuthorityError(f"cannot write {path}: {error.strerror}") from error


def write_pair(path: Path, certificate_pem: str, key_pem: str) -> Path:
    """Write certificate and key to one file that only we can read: the TLS library loads them from nowhere else."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(certificate_pem + key_pem)
    return path


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its owner may read. Raises AuthorityError."""
    try:
        if path.stat().st_mode & 0o077:
            raise AuthorityError(f"{path} may be read by other users; run: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(f"cannot read {path}: {error.strerror}") from error


def _link(draft: Path, path: Path) -> None:
    """Give the draft its name unless somebody was faster."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
