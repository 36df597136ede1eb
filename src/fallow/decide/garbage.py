"""What may be forgotten: ended replicas, unused templates, tokens and keys long past use, leases out of quarantine."""

from collections import defaultdict

from fallow.decide.plan import Plan, Step
from fallow.decide.removal import REVOKED_SECONDS
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica, Template
from fallow.model.registrations import MemberKey
from fallow.model.tokens import ApiToken, JoinToken
from fallow.model.upgrades import UpgradeState

KEEP_ENDED_SECONDS = 3600.0
KEEP_ENDED_PER_DEPLOYMENT = 20
KEEP_GENERATIONS = 10
KEEP_TOKENS_SECONDS = 7 * 86400.0
KEEP_UPGRADES_SECONDS = 30 * 86400.0
KEEP_KEYS_SECONDS = 90 * 86400.0  # of machines that are no members any more


def sweep(snapshot: Snapshot, now: float) -> Plan:
    """Return the deletions due now."""
    steps = [Step(deletes=(replica,)) for replica in _forgettable_replicas(snapshot, now)]
    used = {replica.template_id for replica in snapshot.replicas.values()}
    for template in snapshot.templates.values():
        deployment = snapshot.deployments.get(template.deployment_id)
        if template.id not in used and (deployment is None or _forgettable(template, deployment)):
            steps.append(Step(deletes=(template,)))
    steps.extend(
        Step(deletes=(revoked,))
        for revoked in snapshot.revocations.values()
        if now - revoked.created_at > REVOKED_SECONDS
    )
    steps.extend(
        Step(deletes=(upgrade,))
        for upgrade in snapshot.upgrades.values()
        if upgrade.state is not UpgradeState.RUNNING and now - upgrade.updated_at > KEEP_UPGRADES_SECONDS
    )
    tokens: list[JoinToken | ApiToken] = [*snapshot.join_tokens.values(), *snapshot.api_tokens.values()]
    steps.extend(
        Step(deletes=(token,))
        for token in tokens
        if token.expires_at is not None and now - token.expires_at > KEEP_TOKENS_SECONDS
    )
    steps.extend(Step(deletes=(lease,)) for lease in snapshot.released_leases.values() if lease.until <= now)
    steps.extend(
        Step(deletes=(key,))
        for key in snapshot.member_keys.values()
        if now - key.updated_at > KEEP_KEYS_SECONDS
        and not _in_use(snapshot, key)
        and key.token_id not in snapshot.join_tokens
    )
    return Plan(steps=steps)


def _in_use(snapshot: Snapshot, key: MemberKey) -> bool:
    """Say whether a key is the one its member has now: another machine may have taken its place."""
    member = snapshot.members.get(key.member_id)
    return member is not None and member.key_sha256 == key.id


def _forgettable(template: Template, deployment: Deployment) -> bool:
    """Say whether nobody goes back to this generation: it is old, and not the one an update that fails goes back to."""
    good = deployment.update.from_generation if deployment.update is not None else 0
    return template.generation < deployment.generation - KEEP_GENERATIONS and template.generation not in (
        good,
        deployment.good_generation,
    )


def _forgettable_replicas(snapshot: Snapshot, now: float) -> list[Replica]:
    ended: dict[str, list[Replica]] = defaultdict(list)
    for replica in snapshot.replicas.values():
        if replica.ended and not _blocks_its_slot(snapshot, replica):
            ended[replica.deployment_id].append(replica)
    found: list[Replica] = []
    for replicas in ended.values():
        replicas.sort(key=lambda replica: replica.state_since, reverse=True)
        found.extend(
            replica
            for position, replica in enumerate(replicas)
            if position >= KEEP_ENDED_PER_DEPLOYMENT or now - replica.state_since > KEEP_ENDED_SECONDS
        )
    return found


def _blocks_its_slot(snapshot: Snapshot, replica: Replica) -> bool:
    """A replica that failed for good tells why its slot is empty; forgetting it would start it all over again."""
    deployment = snapshot.deployments.get(replica.deployment_id)
    return deployment is not None and replica.state == "failed" and replica.generation == deployment.generation
