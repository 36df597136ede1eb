"""Image references in full, as registries and both engines understand them alike."""

import re

import msgspec

DEFAULT_REGISTRY = "docker.io"
MAX_REFERENCE = 512
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$(?!\n)"

# The grammar of github.com/distribution/reference.
_REGISTRY = re.compile(r"(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?\Z")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Reference(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An image's place: a registry with its port, a repository, and a tag or a digest (never both)."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Return it without tag and digest: `docker.io/library/nginx`."""
        return f"{self.registry}/{self.repository}"

    @property
    def text(self) -> str:
        """Return it whole: `docker.io/library/nginx:latest`."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    def at(self, digest: str) -> str:
        """Return the same image by what it is, not by what it is called."""
        return f"{self.name}@{digest}"


def parse_reference(text: str) -> Reference:
    """Read a reference, filling in what Docker would: `nginx` is `docker.io/library/nginx:latest`.

    A tag beside a digest is dropped: the digest says more, and Podman refuses both. Raises ValueError.
    """
    found = _split(text)
    faults = (
        (max(len(text), len(found.text)) > MAX_REFERENCE, f"it has more than {MAX_REFERENCE} characters"),
        (not _REGISTRY.match(found.registry), f"{found.registry[:80]!r} is no host of a registry"),
        (
            not _REPOSITORY.match(found.repository),
            f"{found.repository[:80]!r} is no repository; it has to be lower case",
        ),
        (bool(found.tag) and not _TAG.match(found.tag), f"{found.tag[:80]!r} is no tag"),
        (
            not found.tag and not _DIGEST.match(found.digest),
            f"{found.digest[:80]!r} is no digest (sha256: and 64 digits)",
        ),
    )
    for wrong, why in faults:
        if wrong:
            raise ValueError(f"{text[:80]!r} is not an image reference: {why}")
    return found


def qualified(reference: str) -> str:
    """Return a reference with its registry and with a tag or a digest; what is malformed stays so."""
    return _split(reference).text


def _split(text: str) -> Reference:
    """A first part is a registry when it has a dot or a colon or is `localhost`, as Docker decides it."""
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DEFAULT_REGISTRY, name if slash else f"library/{name}"
    path, colon, tag = rest.partition(":")
    if at:
        return Reference(registry=first, repository=path, digest=digest)
    return Reference(registry=first, repository=path, tag=tag if colon else "latest")
