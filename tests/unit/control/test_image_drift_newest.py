"""What registries are asked for when drift is looked for."""

from image_world import job
from records import NOW, deployment, snapshot

from fallow.control.image_drift import newest
from fallow.control.refusals import Refused, refuse
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import DeploymentSpec
from fallow.model.images import ResolvedImage

DIGEST = "sha256:" + "a" * 64


class Registry:
    """Answers everything but one, and remembers what it was asked, for which project."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}

    async def resolve(self, reference: str, project: str, *, since: float) -> ResolvedImage:
        self.asked[reference] = project
        assert since == NOW
        if "gone" in reference:
            raise refusal()
        return ResolvedImage(reference=reference, digest=DIGEST, platforms=())

    def policy(self, project: str) -> None:
        return None


def refusal() -> Refused:
    return refuse(422, "not-found", "No such image", "it is gone")


async def test_tags_of_deployments_and_of_jobs_are_asked_for_and_digests_are_not() -> None:
    web = deployment(spec=DeploymentSpec(replicas=1, container=ContainerSpec(image="shop/web:2")))
    exact = deployment(
        id="d-exact", name="exact", spec=DeploymentSpec(replicas=1, container=ContainerSpec(image=f"a@{DIGEST}"))
    )
    pulled = job("j1", image=ResolvedImage(reference="r.example/gone:1", digest=DIGEST, platforms=()),
                 reference="r.example/gone:1")  # fmt: skip
    registry = Registry()
    found = await newest(snapshot(web, exact, pulled), registry, NOW)
    assert set(registry.asked) == {"docker.io/shop/web:2", "r.example/gone:1"}
    assert set(found) == {"docker.io/shop/web:2"}
    assert registry.asked["docker.io/shop/web:2"] == web.project
