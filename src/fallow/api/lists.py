"""The envelopes of lists: a revision from which a watch goes on, and the items."""

from fallow.model.audit import AuditEntry
from fallow.model.clusters import ClusterView
from fallow.model.deployments import DeploymentView, GenerationView, ReplicaView
from fallow.model.events import Event
from fallow.model.image_requests import DriftView, ImageJobView, ImageTaskView, ImageView, NodeImagesView
from fallow.model.image_schedules import ImageScheduleView
from fallow.model.labels import LabelSetView
from fallow.model.members import MemberView
from fallow.model.mirrors import MirrorView
from fallow.model.peers import PeerView
from fallow.model.pools import LeaseView, PoolView
from fallow.model.problems import Page
from fallow.model.registrations import RegistrationView
from fallow.model.registries import RegistryView
from fallow.model.routes import RouteView
from fallow.model.server_pools import ServerPoolView
from fallow.model.servers import ServerView
from fallow.model.tokens import TokenView
from fallow.model.trust import TrustView
from fallow.model.upgrades import UpgradeView
from fallow.model.vms import VmView


class MemberList(Page, frozen=True, kw_only=True):
    """Members, by name."""

    items: tuple[MemberView, ...]


class ClusterList(Page, frozen=True, kw_only=True):
    """Clusters, by name."""

    items: tuple[ClusterView, ...]


class ServerList(Page, frozen=True, kw_only=True):
    """Servers, by name."""

    items: tuple[ServerView, ...]


class ServerPoolList(Page, frozen=True, kw_only=True):
    """Server pools, by name."""

    items: tuple[ServerPoolView, ...]


class VmList(Page, frozen=True, kw_only=True):
    """Virtual machines, by server and name."""

    items: tuple[VmView, ...]


class LabelSetList(Page, frozen=True, kw_only=True):
    """Label sets, by name."""

    items: tuple[LabelSetView, ...]


class UpgradeList(Page, frozen=True, kw_only=True):
    """Upgrades of agents, newest first."""

    items: tuple[UpgradeView, ...]


class RegistrationList(Page, frozen=True, kw_only=True):
    """Machines that wait for approval, longest first."""

    items: tuple[RegistrationView, ...]


class TokenList(Page, frozen=True, kw_only=True):
    """Tokens, oldest first."""

    items: tuple[TokenView, ...]


class PoolList(Page, frozen=True, kw_only=True):
    """Pools, by name."""

    items: tuple[PoolView, ...]


class LeaseList(Page, frozen=True, kw_only=True):
    """Leases of a pool, by address."""

    items: tuple[LeaseView, ...]


class MirrorList(Page, frozen=True, kw_only=True):
    """Mirrors that we run, by name."""

    items: tuple[MirrorView, ...]


class RegistryList(Page, frozen=True, kw_only=True):
    """Registries that are known, by host."""

    items: tuple[RegistryView, ...]


class TrustList(Page, frozen=True, kw_only=True):
    """Rules on images, by project."""

    items: tuple[TrustView, ...]


class DeploymentList(Page, frozen=True, kw_only=True):
    """Deployments, by project and name."""

    items: tuple[DeploymentView, ...]


class GenerationList(Page, frozen=True, kw_only=True):
    """Generations of a deployment, newest first."""

    items: tuple[GenerationView, ...]


class ReplicaList(Page, frozen=True, kw_only=True):
    """Replicas, by deployment and slot."""

    items: tuple[ReplicaView, ...]


class RouteList(Page, frozen=True, kw_only=True):
    """Routes, by deployment."""

    items: tuple[RouteView, ...]


class EventList(Page, frozen=True, kw_only=True):
    """Events, newest last."""

    items: tuple[Event, ...]


class PeerList(Page, frozen=True, kw_only=True):
    """Control-plane processes, oldest first."""

    items: tuple[PeerView, ...]


class AuditList(Page, frozen=True, kw_only=True):
    """Entries of the audit record, newest last."""

    items: tuple[AuditEntry, ...]


class ImageJobList(Page, frozen=True, kw_only=True):
    """Image jobs, newest first."""

    items: tuple[ImageJobView, ...]


class ImageTaskList(Page, frozen=True, kw_only=True):
    """Image tasks, newest first; `next` leads to the next page, and is empty on the last."""

    items: tuple[ImageTaskView, ...]
    next: str = ""


class ImageList(Page, frozen=True, kw_only=True):
    """Images that nodes have, those that most nodes have first."""

    items: tuple[ImageView, ...]


class NodeImagesList(Page, frozen=True, kw_only=True):
    """What nodes have, by node."""

    items: tuple[NodeImagesView, ...]


class DriftList(Page, frozen=True, kw_only=True):
    """Nodes that have something else than they should, by node."""

    items: tuple[DriftView, ...]


class ImageScheduleList(Page, frozen=True, kw_only=True):
    """Schedules of image jobs, by name."""

    items: tuple[ImageScheduleView, ...]
