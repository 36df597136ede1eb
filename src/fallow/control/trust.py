"""Rules on which images a project may run: setting, showing and removing them."""

from collections.abc import Callable

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import not_found, refuse
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.trust import pattern_trouble
from fallow.drivers.registry.cosign import describe_key
from fallow.model.trust import TrustKeyView, TrustPolicy, TrustRequest, TrustView
from fallow.store.applier import Applier
from fallow.store.cache import Cache


class Trust:
    """Keeps the rules of projects. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock

    def views(self) -> tuple[TrustView, ...]:
        """Return the rules of all projects that have some, by project."""
        return tuple(_view(found) for _, found in sorted(self._cache.snapshot().trust_policies.items()))

    def view(self, project: str) -> TrustView:
        """Return the rules of one project. Raises Refused (404)."""
        return _view(self._called(project))

    async def set(self, request: TrustRequest, actor: str) -> TrustView:
        """Set all rules of a project. Raises Refused and StoreError."""
        if not (request.allow or request.require_digest or request.keys):
            raise refuse(
                422, "no-rules", "No rules", "these rules would allow everything",
                f"fallow trust remove {request.project}, or give --allow, --require-digest or --key",
            )  # fmt: skip
        for pattern in request.allow:
            if trouble := pattern_trouble(pattern):
                raise refuse(422, "bad-pattern", "Not a pattern of images", trouble)
        for number, key in enumerate(request.keys, 1):
            try:
                describe_key(key)
            except ValueError as error:
                raise refuse(422, "bad-key", "Not a usable key", f"key {number}: {error}") from None

        def decide() -> tuple[Step, None]:
            now, before = self._clock(), self._cache.snapshot().trust_policies.get(request.project)
            made = TrustPolicy(
                id=request.project,
                created_at=before.created_at if before else now,
                updated_at=now,
                revision=before.revision if before else 0,
                allow=request.allow,
                require_digest=request.require_digest,
                keys=request.keys,
                created_by=actor,
            )
            told = event(
                new_id(), now, actor, "trust", made.id, made.id, "TrustChanged" if before else "TrustSet",
                f"images of project {made.id}: {_terms(made)}",
            )  # fmt: skip
            return Step(puts=(made, told)), None

        await commit_again(self._applier, decide)
        return self.view(request.project)

    async def remove(self, project: str, actor: str) -> None:
        """Let a project run any image again. Raises Refused (404) and StoreError."""

        def decide() -> tuple[Step, None]:
            found = self._called(project)
            told = event(
                new_id(), self._clock(), actor, "trust", found.id, found.id, "TrustRemoved",
                f"images of project {found.id}: any, from now on", "warning",
            )  # fmt: skip
            return Step(puts=(told,), deletes=(found,)), None

        await commit_again(self._applier, decide)

    def _called(self, project: str) -> TrustPolicy:
        found = self._cache.get("trust-policies", project)
        if not isinstance(found, TrustPolicy):
            raise not_found(f"rule on the images of project {project[:80]!r}", "fallow trust list shows all")
        return found


def _terms(policy: TrustPolicy) -> str:
    parts = (
        f"only {', '.join(policy.allow[:10])}{', ...' if len(policy.allow) > 10 else ''}" if policy.allow else "",
        "by digest" if policy.require_digest else "",
        f"signed by one of {len(policy.keys)} keys" if policy.keys else "",
    )
    return ", ".join(part for part in parts if part)


def _view(policy: TrustPolicy) -> TrustView:
    keys = [(*describe_key(pem), pem) for pem in policy.keys]
    return TrustView(
        project=policy.id,
        allow=policy.allow,
        require_digest=policy.require_digest,
        keys=tuple(TrustKeyView(kind=kind, sha256=sha256, pem=pem) for kind, sha256, pem in keys),
        revision=policy.revision,
        created_at=policy.created_at,
        updated_at=policy.updated_at,
        created_by=policy.created_by,
    )
