"""Every kind of record the store holds, by the name it has in keys and in watches."""

from fallow.model.audit import AuditEntry
from fallow.model.deployments import Deployment, Replica, Template
from fallow.model.divisions import Division
from fallow.model.events import Event
from fallow.model.hosts import Host
from fallow.model.image_jobs import ImageJob, ImageTask
from fallow.model.image_schedules import ImageSchedule
from fallow.model.images import NodeImages
from fallow.model.labels import LabelSet
from fallow.model.members import Member, Revocation
from fallow.model.meta import Record
from fallow.model.peers import Leader, Peer, Roster
from fallow.model.pools import Pool, ReleasedLease
from fallow.model.registrations import MemberKey, Registration
from fallow.model.registries import KnownRegistry
from fallow.model.remotes import RemoteService
from fallow.model.rooms import Room
from fallow.model.secrets import SealedSecret
from fallow.model.server_pools import ServerPool
from fallow.model.servers import Lending, LentHour
from fallow.model.shares import Share
from fallow.model.tokens import ApiToken, JoinToken
from fallow.model.trust import TrustPolicy
from fallow.model.upgrades import Upgrade
from fallow.model.vms import Vm

KINDS: dict[str, type[Record]] = {
    "members": Member,
    "deployments": Deployment,
    "templates": Template,
    "replicas": Replica,
    "join-tokens": JoinToken,
    "api-tokens": ApiToken,
    "events": Event,
    "peers": Peer,
    "leaders": Leader,
    "rosters": Roster,
    "secrets": SealedSecret,
    "audit": AuditEntry,
    "pools": Pool,
    "released-leases": ReleasedLease,
    "label-sets": LabelSet,
    "revocations": Revocation,
    "upgrades": Upgrade,
    "registrations": Registration,
    "member-keys": MemberKey,
    "image-jobs": ImageJob,
    "image-tasks": ImageTask,
    "node-images": NodeImages,
    "registries": KnownRegistry,
    "trust-policies": TrustPolicy,
    "image-schedules": ImageSchedule,
    "divisions": Division,
    "shares": Share,
    "rooms": Room,
    "remote-services": RemoteService,
    "hosts": Host,
    "server-pools": ServerPool,
    "vms": Vm,
    "lendings": Lending,
    "lent-hours": LentHour,
}
KIND_OF: dict[type[Record], str] = {kind: name for name, kind in KINDS.items()}

# The shape of the stored data. A control plane refuses newer data than it knows, and brings older data up to this
# version (store/upgrade.py): who changes what is stored so that older records would not do any more adds a step there.
SCHEMA_VERSION = 3
SCHEMA_KEY = "meta/schema"


def key_of(record: Record) -> str:
    """Return the store key of a record: `replicas/web-0-x7k2q`."""
    return f"{KIND_OF[type(record)]}/{record.id}"
