"""Image references in full, as both engines understand them alike."""

DEFAULT_REGISTRY = "docker.io"


def qualified(reference: str) -> str:
    """Return a reference with its registry and with a tag or a digest: `nginx` is `docker.io/library/nginx:latest`.

    A first part is a registry when it has a dot or a colon or is `localhost`, as Docker decides it. A tag beside a
    digest is dropped: the digest says more, and Podman refuses both.
    """
    name, at, digest = reference.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DEFAULT_REGISTRY, name if slash else f"library/{name}"
    path, colon, tag = rest.partition(":")
    if at:
        return f"{first}/{path}@{digest}"
    return f"{first}/{path}:{tag}" if colon else f"{first}/{path}:latest"
