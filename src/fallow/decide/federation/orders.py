"""What a host tells a cluster of one share, and the number by which both know which order they speak of."""

from fallow.model.deployments import Deployment
from fallow.model.images import ResolvedImage
from fallow.model.shares import Share, SharedRegistry, ShareOrder


def order_revision(share: Share, deployment: Deployment) -> int:
    """Return the revision of a share's order. It grows whenever what is ordered does, and never for a mere report.

    `Share.order` grows with the replicas, by whoever decides them; the deployment's revision with all else. Both are
    revisions of the same store, so the larger one grows when either does.
    """
    return max(share.order, deployment.revision)


def order_of(
    share: Share, deployment: Deployment, image: ResolvedImage | None = None, registry: SharedRegistry | None = None
) -> ShareOrder:
    """Return what a share's cluster should run; nothing of what is being deleted.

    `image` is what the image of its generation stands for, `registry` how it is got; None: nothing is known.
    """
    return ShareOrder(
        deployment_id=deployment.id,
        project=deployment.project,
        name=deployment.name,
        spec=deployment.spec,
        generation=deployment.generation,
        replicas=0 if deployment.deleting else share.replicas,
        revision=order_revision(share, deployment),
        keep=0 if deployment.deleting else share.keep,
        digest=image.digest if image is not None else None,
        registry=registry,
    )
