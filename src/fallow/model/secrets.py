"""Secrets at rest: only sealed ones are stored."""

from fallow.model.meta import Record


class SealedSecret(Record, frozen=True, kw_only=True):
    """A secret that only holders of the cluster key can read; see `drivers/authority/sealing.py`."""

    sealed: bytes
    about: str = ""  # what is known of it without the key, such as a CA's hash
