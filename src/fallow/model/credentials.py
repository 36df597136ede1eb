"""How secrets are written for people: join tokens, API tokens, and the names certificates carry."""

import msgspec

# Every server certificate of a control plane carries this name, and every client of ours asks for it: addresses and
# names of machines may change or lie behind NAT, the CA's key does not.
SERVER_NAME = "control.fallow.internal"
JOIN_PREFIX = "fallow-join"
API_PREFIX = "fallow-api"


class JoinCredential(msgspec.Struct, frozen=True, kw_only=True):
    """What `fallow-join.ID.SECRET.CAHASH` says; `ca_sha256` is the hex SHA-256 of the CA's public key (DER SPKI)."""

    token_id: str
    secret: str
    ca_sha256: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"JoinCredential({self.token_id})"

    def text(self) -> str:
        """Return what is handed to a person."""
        return f"{JOIN_PREFIX}.{self.token_id}.{self.secret}.{self.ca_sha256}"


def parse_join_credential(text: str) -> JoinCredential:
    """Read a join token. Raises ValueError, without repeating the secret, when it is not one."""
    parts = text.strip().split(".")
    if parts[0] == API_PREFIX:
        raise ValueError("this is an API token; a machine joins with a join token (fallow token create --role node)")
    if len(parts) != 4 or parts[0] != JOIN_PREFIX or len(parts[3]) != 64 or not all(part.isascii() for part in parts):
        raise ValueError(
            "this is not a join token; it has the form fallow-join.ID.SECRET.HASH and may have been cut off"
        )
    return JoinCredential(token_id=parts[1], secret=parts[2], ca_sha256=parts[3])


def member_uri(role: str, member_id: str) -> str:
    """Return the URI a member's certificate carries as its only subject alternative name."""
    return f"fallow://member/{role}/{member_id}"


def parse_member_uri(uri: str) -> tuple[str, str]:
    """Return role and member id. Raises ValueError."""
    head, _, rest = uri.partition("://member/")
    role, _, member_id = rest.partition("/")
    if head != "fallow" or not role or not member_id or "/" in member_id:
        raise ValueError(f"{uri!r} is not a member's URI")
    return role, member_id
