"""Who opens a session: by its certificate, and the address it comes from."""

import asyncio

from cryptography import x509

from fallow.decide.joining import lease_address
from fallow.model.credentials import parse_member_uri


class SessionRefused(Exception):  # noqa: N818 - an outcome, told to the member
    """The peer is not let in; `final` when asking again cannot help, `clean` when it should remove what it runs."""

    def __init__(self, reason: str, final: bool = False, clean: bool = False) -> None:
        super().__init__(reason)
        self.final = final
        self.clean = clean


def source_of(writer: asyncio.StreamWriter) -> str:
    """Return the address that a session comes from; empty for one that nobody could dial."""
    try:
        return lease_address(writer.get_extra_info("peername")[0])
    except (ValueError, TypeError):
        return ""


def named_by(certificate: bytes) -> tuple[str, str]:
    """Return the role and the id that a certificate (DER) names. Raises SessionRefused."""
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return parse_member_uri(uri)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise SessionRefused("the certificate is not a member's", final=True) from error
