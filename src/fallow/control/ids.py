"""Ids that people can read out: lower case letters and digits without look-alikes."""

import secrets

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"


def new_id(length: int = 7) -> str:
    """Return a random id; seven characters are 34 bits, enough beside a name or within one kind."""
    number, letters = secrets.randbelow(len(_ALPHABET) ** length), []
    for _ in range(length):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return "".join(letters)
