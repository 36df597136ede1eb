"""Lists of what refers to a manifest, kept by registries or, where these keep none, by clients under a tag.

OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

import re

from yarl import URL

from fallow.drivers.registry import documents
from fallow.drivers.registry.contract import Access, Registry, RegistryError

_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?')


async def listed_by_tag(
    registry: Registry, access: Access, repository: str, digest: str, artifact_type: str
) -> list[str]:
    """Return what a registry without a list of its own has under the tag for it. Raises RegistryError."""
    try:
        found = await registry.manifest(access, repository, digest.replace(":", "-"))
    except RegistryError as error:
        if error.kind == "not-found":
            return []
        raise
    # Some registries take that tag for the digest, and answer with the very image.
    return documents.referring(found.body, artifact_type) if documents.is_index(found) else []


def next_page(link: str) -> str:
    """Return the query, with its question mark, that asks for the page after this one; empty when it is the last.

    Only the query is taken from a `Link` header (RFC 8288): it leads nowhere else.
    """
    found = _NEXT.search(link)
    if found is None or not found[1].isascii() or not found[1].isprintable() or " " in found[1]:
        return ""
    try:
        query = URL(found[1], encoded=True).raw_query_string
    except ValueError:
        return ""
    return f"?{query}" if query else ""
