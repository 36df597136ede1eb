"""Keys and certificates in PEM form, read from files that a command is given."""

from pathlib import Path

from fallow.cli.failures import usage


def read_public(file: Path, wanted: str) -> str:
    """Return the text of a file that holds nothing secret; `wanted` says what to give instead. Raises Failure."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{file} cannot be read", str(error)) from None
    if "PRIVATE KEY" in text:
        raise usage(f"There is a private key in {file}", f"Give {wanted}; nothing was sent.")
    return text
