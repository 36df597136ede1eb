"""Grants: logins and bytes only for what a node was told to pull, and the same bytes for all nodes of a generation."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from control_rig import Stored, storing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from records import member
from registry_images import Shelf, index_of, tiny
from registry_rig import RegistryParts, registry_parts

from fallow.control.trust import Trust
from fallow.drivers.registry import RegistryError
from fallow.drivers.registry.fake import FakeRegistry
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Replica, ReplicaState, Template
from fallow.model.image_frames import PullAsked
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget, ImageTask, TaskState
from fallow.model.images import BlobSource, PullGrant, RegistryLogin
from fallow.model.members import Facts, Member, Role
from fallow.model.registries import RegistryRequest
from fallow.model.trust import TrustRequest
from fallow.model.wire import ToMember
from testbed.certificates import OwnCa

HOST = "registry.example"
LOGIN = RegistryLogin(username="ci", password="hunter2-sealed")
NOW = 1_800_000_000.0


def node(id_: str, architecture: str = "amd64") -> Member:
    return member(id_, id=id_, revision=0, facts=Facts(architecture=architecture))


@pytest.fixture
def key_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def template(image: str, id_: str = "d-1.1") -> Template:
    return Template(
        id=id_, created_at=NOW, updated_at=NOW, deployment_id="d-1", generation=1, container=ContainerSpec(image=image)
    )


def replica(id_: str, node_id: str, state: ReplicaState = ReplicaState.PLACED, of: str = "d-1.1") -> Replica:
    return Replica(
        id=id_, created_at=NOW, updated_at=NOW, deployment_id="d-1", project="shop", deployment="web", slot=0,
        generation=1, template_id=of, node_id=node_id, state=state,
    )  # fmt: skip


def job(reference: str, **more) -> ImageJob:
    return ImageJob(
        id="j-1", created_at=NOW, updated_at=NOW, action=ImageAction.PULL, reference=reference, target=ImageTarget(),
        **more,
    )  # fmt: skip


def task(member_id: str, state: TaskState = TaskState.WORKING) -> ImageTask:
    return ImageTask(
        id=f"j-1.{member_id}", created_at=NOW, updated_at=NOW, job_id="j-1", member_id=member_id, member_name="n",
        state=state,
    )  # fmt: skip


@dataclass
class Rig:
    stored: Stored
    parts: RegistryParts
    shelf: Shelf
    now: list[float]

    @property
    def driver(self) -> FakeRegistry:
        assert isinstance(self.parts.driver, FakeRegistry)
        return self.parts.driver

    async def ask(self, member_id: str, reference: str = f"{HOST}/shop/api:1", **more: str) -> PullGrant:
        return await self.parts.pulls.grant(member_id, PullAsked(pull_id="p-1", reference=reference, **more))

    async def for_replica(self, member_id: str = "n1", id_: str = "r-1") -> PullGrant:
        return await self.ask(member_id, replica_id=id_)

    async def trust(self, **rules) -> None:
        await Trust(self.stored.cache, self.stored.applier, lambda: NOW).set(
            TrustRequest(project="shop", **rules), "test"
        )


@pytest.fixture
async def rig(tmp_path) -> AsyncIterator[Rig]:
    driver = FakeRegistry(logins={HOST: LOGIN})
    now = [100.0]
    async with storing(
        node("n1"),
        node("n2"),
        node("n3", "arm64"),
        member("g1", id="g1", role=Role.GATEWAY, revision=0),
        template(f"{HOST}/shop/api:1"),
        replica("r-1", "n1"),
        replica("r-2", "n2"),
        replica("r-3", "n3"),
    ) as stored:
        parts = registry_parts(stored.cache, stored.applier, tmp_path, lambda: NOW, driver, lambda: now[0])
        await parts.registries.add(RegistryRequest(host=HOST, username="ci", password=LOGIN.password), "test")
        yield Rig(stored, parts, Shelf(HOST, driver), now)


async def test_a_replica_gets_digest_login_and_image(rig: Rig):
    image = rig.shelf.put("shop/api", "1", tiny())
    grant = await rig.for_replica()
    assert (grant.kind, grant.text) == ("", "")
    assert grant.login == LOGIN
    assert grant.digest == image.digest
    assert grant.image is not None
    assert grant.image.image_id == image.image_id
    assert (grant.insecure, grant.ca_pem, grant.proxy) == (False, "", "")


async def test_a_node_is_told_by_which_certificates_and_through_which_proxy(rig: Rig, tmp_path):
    rig.shelf.put("shop/api", "1", tiny())
    ca = OwnCa(tmp_path).file.read_text()
    terms = RegistryRequest(host=HOST, username="ci", password=LOGIN.password, ca_pem=ca, proxy="http://10.0.0.9:3128")
    await rig.parts.registries.add(terms, "test")
    grant = await rig.for_replica()
    assert (grant.ca_pem, grant.proxy) == (ca, "http://10.0.0.9:3128")
    rig.driver.troubles = [RegistryError("unreachable", "no route")] * 2
    grant = await rig.for_replica("n2", "r-2")
    assert (grant.ca_pem, grant.proxy) == (ca, "http://10.0.0.9:3128")


@pytest.mark.parametrize(
    ("member_id", "asked"),
    [
        ("n1", {}),
        ("n1", {"replica_id": "r-2"}),
        ("n1", {"replica_id": "r-none"}),
        ("n1", {"task_id": "j-1.n2"}),
        ("n1", {"task_id": "j-1.n1"}),
        ("n2", {"replica_id": "r-1"}),
        ("n1", {"replica_id": "r-1", "reference": f"{HOST}/shop/other:1"}),
        ("n1", {"replica_id": "r-1", "reference": "evil.example/shop/api:1"}),
        ("n1", {"replica_id": "r-1", "reference": "Not A Reference"}),
        ("n1", {"replica_id": "r-1", "task_id": "j-1.n1"}),
        ("g1", {"replica_id": "r-1"}),
        ("nobody", {"replica_id": "r-1"}),
    ],
)
async def test_no_login_for_what_a_node_was_not_told(rig: Rig, member_id: str, asked: dict[str, str]):
    rig.shelf.put("shop/api", "1", tiny())
    await rig.stored.write(job(f"{HOST}/shop/api:1"), task("n1", TaskState.DONE), task("n2"))
    grant = await rig.ask(member_id, **asked)
    assert grant.kind == "denied"
    assert grant.login is None
    assert grant.image is None
    assert rig.driver.asked == []


@pytest.mark.parametrize("state", [ReplicaState.STOPPED, ReplicaState.FAILED, ReplicaState.LOST])
async def test_no_login_for_a_replica_that_has_ended(rig: Rig, state: ReplicaState):
    await rig.stored.write(replica("r-9", "n1", state))
    grant = await rig.for_replica(id_="r-9")
    assert (grant.kind, grant.login) == ("denied", None)


async def test_a_task_gets_what_its_job_resolved(rig: Rig):
    first = rig.shelf.put("shop/api", "1", tiny("first"))
    resolved = await rig.parts.resolver.resolve(f"{HOST}/shop/api:1")
    await rig.stored.write(job(f"{HOST}/shop/api:1", image=resolved), task("n1"))
    rig.shelf.put("shop/api", "1", tiny("second"))
    rig.now[0] += 1000
    grant = await rig.ask("n1", task_id="j-1.n1")
    assert grant.digest == first.digest
    assert grant.login == LOGIN


async def test_a_job_made_while_its_registry_was_away_is_pinned_by_the_first_answer(rig: Rig):
    first = rig.shelf.put("shop/api", "1", tiny("first"))
    await rig.stored.write(job(f"{HOST}/shop/api:1"), task("n1"), task("n2"))
    rig.driver.troubles = [RegistryError("unreachable", "it is away")]
    unpinned = await rig.ask("n1", task_id="j-1.n1")
    assert (unpinned.kind, unpinned.digest) == ("", "")
    rig.now[0] += 60
    assert (await rig.ask("n1", task_id="j-1.n1")).digest == first.digest
    rig.shelf.put("shop/api", "1", tiny("second"))
    rig.now[0] += 100_000
    assert (await rig.ask("n2", task_id="j-1.n2")).digest == first.digest
    kept = rig.stored.cache.get("image-jobs", "j-1")
    assert isinstance(kept, ImageJob)
    assert kept.image is not None
    assert kept.image.digest == first.digest


async def test_all_nodes_of_a_generation_get_the_same_bytes(rig: Rig):
    first = rig.shelf.put("shop/api", "1", tiny("first"))
    assert (await rig.for_replica("n1", "r-1")).digest == first.digest
    rig.shelf.put("shop/api", "1", tiny("second"))
    rig.now[0] += 100_000
    assert (await rig.for_replica("n2", "r-2")).digest == first.digest
    kept = rig.stored.cache.get("templates", "d-1.1")
    assert isinstance(kept, Template)
    assert kept.image is not None
    assert kept.image.digest == first.digest


async def test_what_is_pulled_ahead_is_what_replicas_get(rig: Rig):
    spec = DeploymentSpec(container=ContainerSpec(image=f"{HOST}/shop/api:1"))
    wanted = Deployment(id="d-1", created_at=NOW, updated_at=NOW, project="shop", name="web", spec=spec)
    await rig.stored.write(wanted, job(f"{HOST}/shop/api:1", deployment_id="d-1", project="shop"), task("n1"))
    first = rig.shelf.put("shop/api", "1", tiny("first"))
    assert (await rig.ask("n1", task_id="j-1.n1")).digest == first.digest
    rig.shelf.put("shop/api", "1", tiny("second"))
    rig.now[0] += 100_000
    assert (await rig.for_replica()).digest == first.digest
    assert (await rig.ask("n1", task_id="j-1.n1")).digest == first.digest


async def test_a_job_is_held_to_the_rules_of_its_project(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny())
    await rig.trust(allow=(f"{HOST}/other/*",))
    await rig.stored.write(job(f"{HOST}/shop/api:1", project="shop"), task("n1"))
    grant = await rig.ask("n1", task_id="j-1.n1")
    assert (grant.kind, grant.login) == ("untrusted", None)


async def test_two_processes_pin_one_image(rig: Rig, tmp_path):
    """Another process resolved before the tag moved, and both pin at once."""
    first = rig.shelf.put("shop/api", "1", tiny("first"))
    await rig.parts.resolver.resolve(f"{HOST}/shop/api:1")
    rig.shelf.put("shop/api", "1", tiny("second"))
    other = registry_parts(rig.stored.cache, rig.stored.applier, tmp_path, lambda: NOW, rig.driver)
    asked = [PullAsked(pull_id=str(n), reference=f"{HOST}/shop/api:1", replica_id=f"r-{n}") for n in (1, 2)]
    grants = await asyncio.gather(rig.parts.pulls.grant("n1", asked[0]), other.pulls.grant("n2", asked[1]))
    assert len({grant.digest for grant in grants}) == 1
    assert grants[0].digest in (first.digest, tiny("second").digest)


async def test_many_nodes_at_once_ask_the_registry_once(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny())
    await rig.stored.write(*(replica(f"m-{number}", "n1") for number in range(50)))
    grants = await asyncio.gather(*(rig.for_replica("n1", f"m-{number}") for number in range(50)))
    assert {grant.kind for grant in grants} == {""}
    assert len([asked for asked in rig.driver.asked if asked.endswith(":1")]) == 1


async def test_a_node_of_another_architecture_gets_its_own_image(rig: Rig):
    images = {"linux/amd64": tiny("a"), "linux/arm64/v8": tiny("b", "arm64", "v8")}
    rig.shelf.put_index("shop/api", "1", index_of(images), images.values())
    assert (await rig.for_replica("n3", "r-3")).image.image_id == images["linux/arm64/v8"].image_id
    assert (await rig.for_replica("n1", "r-1")).image.image_id == images["linux/amd64"].image_id


async def test_an_architecture_that_joins_later_gets_the_pinned_index(rig: Rig):
    images = {"linux/amd64": tiny("a"), "linux/riscv64": tiny("r", "riscv64")}
    digest = rig.shelf.put_index("shop/api", "1", index_of(images), images.values())
    assert (await rig.for_replica("n1", "r-1")).digest == digest
    rig.shelf.put("shop/api", "1", tiny("moved"))
    await rig.stored.write(node("n4", "riscv64"), replica("r-4", "n4"))
    grant = await rig.for_replica("n4", "r-4")
    assert grant.digest == digest
    assert grant.image.image_id == images["linux/riscv64"].image_id


async def test_an_image_for_other_machines_is_refused_in_words(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny("arm", "arm64"))
    grant = await rig.for_replica()
    assert grant.kind == "wrong-platform"
    assert "linux/arm64" in grant.text
    assert "amd64" in grant.text
    assert grant.login is None


async def test_a_registry_that_is_away_leaves_it_to_the_node(rig: Rig):
    rig.driver.troubles = [RegistryError("unreachable", "no route to host")]
    grant = await rig.for_replica()
    assert (grant.kind, grant.image) == ("", None)
    assert grant.login == LOGIN
    kept = rig.stored.cache.get("templates", "d-1.1")
    assert isinstance(kept, Template)
    assert kept.image is None


async def test_a_registry_that_is_away_is_no_way_around_signatures(rig: Rig, key_pem: str):
    await rig.trust(keys=(key_pem,))
    rig.driver.troubles = [RegistryError("unreachable", "no route to host")]
    grant = await rig.for_replica()
    assert (grant.kind, grant.login, grant.image) == ("unreachable", None, None)


@pytest.mark.parametrize("kind", ["denied", "not-found", "wrong-content", "rate-limited"])
async def test_what_a_registry_refuses_is_refused(rig: Rig, kind):
    rig.driver.troubles = [RegistryError(kind, "because", 30.0 if kind == "rate-limited" else 0.0)]
    grant = await rig.for_replica()
    assert (grant.kind, grant.text, grant.login) == (kind, "because", None)
    assert grant.retry_after_seconds == (30.0 if kind == "rate-limited" else 0.0)


async def test_a_registry_that_asks_to_wait_is_left_alone(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny())
    rig.driver.troubles = [RegistryError("rate-limited", "slow down", 60.0)]
    await rig.for_replica()
    asked = len(rig.driver.asked)
    rig.now[0] += 59
    assert (await rig.for_replica()).kind == "rate-limited"
    assert len(rig.driver.asked) == asked
    rig.now[0] += 2
    assert (await rig.for_replica()).kind == ""


async def test_rules_of_the_project_hold_for_pulls(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny())
    await rig.trust(allow=(f"{HOST}/other/*",))
    grant = await rig.for_replica()
    assert (grant.kind, grant.login, grant.image) == ("untrusted", None, None)
    assert "only registry.example/other/*" in grant.text
    await rig.trust(allow=(f"{HOST}/shop/*",))
    grant = await rig.for_replica()
    assert grant.kind == ""
    assert grant.trust is not None
    assert grant.trust.allow == (f"{HOST}/shop/*",)
    await rig.trust(allow=(f"{HOST}/other/*",))
    assert (await rig.for_replica()).kind == "untrusted", "also what is pinned by now"


async def test_rules_that_came_later_hold_for_pinned_images(rig: Rig, key_pem: str):
    rig.shelf.put("shop/api", "1", tiny())
    assert (await rig.for_replica()).kind == ""
    await rig.trust(keys=(key_pem,))
    grant = await rig.for_replica()
    assert (grant.kind, grant.login) == ("untrusted", None)
    assert "it has none" in grant.text


async def test_mirror_and_sources(rig: Rig):
    rig.shelf.put("shop/api", "1", tiny())
    request = RegistryRequest(host=HOST, username="ci", password=LOGIN.password, mirror="10.0.0.9:5000")
    await rig.parts.registries.add(request, "test")
    assert (await rig.for_replica()).mirror == "10.0.0.9:5000"
    source = BlobSource(member_id="n2", address="10.0.0.2", port=7100)
    rig.parts.pulls.helpers = lambda found, image: (f"mirror-for-{found.id}:1", (source,))
    grant = await rig.for_replica()
    assert (grant.mirror, grant.sources) == ("mirror-for-n1:1", (source,))


async def test_a_login_of_another_key_is_told_in_words(rig: Rig, tmp_path):
    rig.shelf.put("shop/api", "1", tiny())
    other = tmp_path / "other"
    other.mkdir()
    parts = registry_parts(rig.stored.cache, rig.stored.applier, other, lambda: NOW, rig.driver)
    grant = await parts.pulls.grant("n1", PullAsked(pull_id="1", reference=f"{HOST}/shop/api:1", replica_id="r-1"))
    assert grant.kind == "denied"
    assert "cluster.key" in grant.text
    assert grant.login is None


@dataclass(eq=False)
class PaperLink:
    member_id: str = "n1"
    instance: str = ""
    agent_version: str = ""
    protocol: int = 3
    key_sha256: str = ""
    sent: list[ToMember] = field(default_factory=list)

    def send(self, frame: ToMember) -> None:
        self.sent.append(frame)

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        raise AssertionError(reason)


async def test_a_node_that_asks_too_much_is_told_so(rig: Rig):
    """And what is said on its session meanwhile is not held up: nothing here waits."""
    rig.shelf.put("shop/api", "1", tiny())
    link = PaperLink()
    for number in range(70):
        asked = PullAsked(pull_id=str(number), reference=f"{HOST}/shop/api:1", replica_id="r-1")
        rig.parts.pulls.answer(link, asked)
    assert [frame.grant.kind for frame in link.sent] == ["rate-limited"] * 6
    async with asyncio.timeout(5):
        while len(link.sent) < 70:
            await asyncio.sleep(0)
    assert [frame.grant.kind for frame in link.sent[6:]] == [""] * 64


async def test_a_session_that_ended_gets_no_answer(rig: Rig):
    link = PaperLink()
    rig.parts.pulls.answer(link, PullAsked(pull_id="1", reference=f"{HOST}/shop/api:1", replica_id="r-1"))
    rig.parts.pulls.closed(link)
    for _ in range(20):
        await asyncio.sleep(0)
    assert link.sent == []
