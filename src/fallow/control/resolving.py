"""References resolved once, centrally: what a tag stands for, asked of its registry and remembered for a short time."""

from fallow.model.images import ResolvedImage


class Resolver:
    """Resolves references; see `resolve`."""

    async def resolve(self, reference: str, project: str = "default") -> ResolvedImage:
        """Return what a reference (in full or short) stands for now, allowed by the policy of a project.

        Raises Refused: 422 `bad-reference` (malformed), `untrusted`, `not-found`, `wrong-content`, ...; 502 when its
        registry cannot be reached, 403 `denied`, 429 `rate-limited` with what it asked for.
        """
        raise NotImplementedError
