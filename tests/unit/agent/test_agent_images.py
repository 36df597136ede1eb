import asyncio
import dataclasses

import pytest
from image_rig import Control, clean, container, delete, pull, until

from fallow.agent import inventory
from fallow.agent.inventory import _that_fit
from fallow.agent.pulling import PullFailed
from fallow.drivers.blobs import BlobError
from fallow.drivers.engine.contract import EngineError
from fallow.drivers.engine.fake import FakeEngine, FakeMachine
from fallow.model.image_frames import ImagesReported, PullAsked
from fallow.model.image_jobs import ImageAction
from fallow.model.images import NodeImage, PullGrant, RegistryLogin
from fallow.model.wire import decode_from_member, encode_frame

APP = "registry.test/shop/app:1"


@pytest.fixture
def machine():
    return FakeMachine()


@pytest.fixture
def engine(machine):
    return FakeEngine(machine, "n")


@pytest.fixture
async def control(engine, tmp_path):
    async with Control(engine, tmp_path) as made:
        yield made


def pulls(machine):
    return [subject for method, subject in machine.calls if method == "pull"]


# pulls of tasks


async def test_a_pull_is_done_told_and_known(control, machine):
    image = machine.publish(APP)
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.state, report.kind, report.image_id, report.unchanged) == ("done", "", image.image_id, False)
    assert report.fetched_bytes == report.total_bytes == image.size_bytes
    assert pulls(machine) == [f"registry.test/shop/app@{image.manifest.digest}"]
    assert machine.images[APP].id == image.image_id
    await until(lambda: control.inventory and control.inventory.images, "the inventory")
    (told,) = control.inventory.images
    assert (told.id, told.references, told.containers) == (image.image_id, (APP,), 0)
    assert told.pulled_at > 0
    assert told.last_needed_at > 0
    assert any("from its registry" in line for line in report.log)


async def test_what_is_there_already_is_not_pulled_again(control, machine, engine):
    image = machine.publish(APP)
    await engine.pull(APP)
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.state, report.unchanged, report.fetched_bytes) == ("done", True, 0)
    assert len(pulls(machine)) == 1


async def test_a_tag_that_moved_is_pulled_by_what_it_stands_for_now(control, machine, engine):
    machine.publish(APP)
    await engine.pull(APP)
    image = machine.publish(APP, version="2")
    control.order(pull("j.n", APP, image, action=ImageAction.UPDATE))
    assert (await control.done("j.n")).image_id == image.image_id
    assert machine.images[APP].id == image.image_id


async def test_the_same_image_by_another_name_only_gets_the_name(control, machine, engine):
    image = machine.publish(APP)
    await engine.pull(APP)
    control.order(pull("j.n", "registry.test/shop/app:stable", image))
    assert (await control.done("j.n")).unchanged
    assert machine.images["registry.test/shop/app:stable"].id == image.image_id
    assert len(pulls(machine)) == 1


async def test_a_name_is_taken_from_another_image_for_one_that_is_there(control, machine, engine):
    machine.publish(APP)
    await engine.pull(APP)
    image = machine.publish("registry.test/shop/app:2")
    await engine.pull("registry.test/shop/app:2")
    control.order(pull("j.n", APP, image))
    assert (await control.done("j.n")).unchanged
    assert machine.images[APP].id == image.image_id


async def test_one_image_by_two_names_comes_once_also_when_that_turns_out_late(control, machine):
    image = machine.publish(APP)
    other = "registry.test/shop/app:stable"
    name = f"registry.test/shop/app@{image.manifest.digest}"
    machine.held[name] = asyncio.Event()
    control.grant(APP, image)
    control.grant(other, image)
    both = [asyncio.create_task(control.images.pull(each, "web-0", None)) for each in (APP, other)]
    await until(lambda: len(control.sent(PullAsked)) == 2, "both have asked")
    machine.held[name].set()
    assert [await each for each in both] == [image.image_id] * 2
    assert pulls(machine) == [name]
    assert {machine.images[each].id for each in (APP, other)} == {image.image_id}


async def test_two_tasks_and_a_replica_wait_for_one_pull(control, machine):
    image = machine.publish(APP)
    name = f"registry.test/shop/app@{image.manifest.digest}"
    machine.held[name] = asyncio.Event()
    control.order(pull("a.n", APP, image), pull("b.n", APP, image), pull("c.n", "registry.test/other:1", image))
    await until(lambda: pulls(machine), "the pull began")
    replica = asyncio.create_task(control.images.pull(APP, "web-0", image))
    await asyncio.sleep(0)
    machine.held[name].set()
    assert await replica == image.image_id
    for task in ("a.n", "b.n", "c.n"):
        assert (await control.done(task)).state == "done"
    assert pulls(machine) == [name]


async def test_another_image_than_was_resolved_is_not_taken(control, machine, engine):
    image = machine.publish(APP)
    name = f"registry.test/shop/app@{image.manifest.digest}"
    other = machine.publish("registry.test/other:1")
    machine.registry[name] = machine.registry["registry.test/other:1"]
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "wrong-content")
    assert other.image_id in report.text
    assert APP not in machine.images
    assert name not in machine.images


async def test_an_image_for_another_machine_is_refused_before_a_byte_comes(control, machine):
    control.order(pull("j.n", APP, machine.publish(APP, architecture="s390x")))
    report = await control.done("j.n")
    assert (report.kind, pulls(machine)) == ("wrong-platform", [])
    assert "s390x" in report.text


async def test_a_disk_that_would_be_full_is_known_before(control, machine):
    image = machine.publish(APP)
    machine.info = dataclasses.replace(machine.info, disk_free_bytes=4 * image.size_bytes - 1)
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.kind, pulls(machine)) == ("no-space", [])
    machine.info = dataclasses.replace(machine.info, disk_free_bytes=4 * image.size_bytes)
    control.order(pull("j.n", APP, image, attempt=2))
    assert (await control.done("j.n", 2)).state == "done"


@pytest.mark.parametrize(
    ("kind", "told"),
    [("rate-limited", "rate-limited"), ("registry-unreachable", "unreachable"), ("conflict", "failed")],
)
async def test_what_the_engine_says_is_told_in_its_own_words(control, machine, kind, told):
    image = machine.publish(APP)
    machine.fail("pull", EngineError(kind, "toomanyrequests: slow down", 17.0))
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.state, report.kind, report.retry_after_seconds) == ("failed", told, 17.0)
    assert report.text == "toomanyrequests: slow down"
    assert any("slow down" in line for line in report.log)


async def test_a_registry_that_falls_silent_is_given_up(control, machine):
    image = machine.publish(APP)
    machine.held[f"registry.test/shop/app@{image.manifest.digest}"] = asyncio.Event()
    control.order(pull("j.n", APP, image, stall_seconds=0.2))
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "stalled")
    assert APP not in machine.images


async def test_an_attempt_ends_with_its_time(control, machine):
    image = machine.publish(APP)
    machine.held[f"registry.test/shop/app@{image.manifest.digest}"] = asyncio.Event()
    control.order(pull("j.n", APP, image, attempt_seconds=0.2))
    assert (await control.done("j.n")).kind == "timeout"


async def test_a_cancelled_pull_stops(control, machine):
    image = machine.publish(APP)
    name = f"registry.test/shop/app@{image.manifest.digest}"
    machine.held[name] = asyncio.Event()
    control.order(pull("j.n", APP, image))
    await until(lambda: control.progress, "progress is told")
    assert control.progress[-1].current_bytes == image.size_bytes // 2
    assert control.progress[-1].total_bytes == image.size_bytes
    control.order(cancelled=("j.n",))
    assert (await control.done("j.n")).state == "cancelled"
    machine.held[name].set()
    control.order(pull("k.n", APP, image))  # nothing of it is in the way
    assert (await control.done("k.n")).state == "done"
    assert len(pulls(machine)) == 2


async def test_what_a_full_order_leaves_out_is_cancelled_without_a_word(control, machine):
    image = machine.publish(APP)
    machine.held[f"registry.test/shop/app@{image.manifest.digest}"] = asyncio.Event()
    control.order(pull("j.n", APP, image))
    await until(lambda: pulls(machine), "it began")
    control.order(full=True)
    control.order(clean("k.n"))
    await control.done("k.n")
    assert control.of("j.n") == []


# the session


async def test_a_report_is_repeated_until_it_is_stored(control, machine):
    control.acknowledges = False
    control.order(pull("j.n", APP, machine.publish(APP)))
    await until(lambda: len(control.of("j.n")) >= 2, "it is told again")
    control.close()
    before = len(control.of("j.n"))
    control.acknowledges = True
    control.open()
    await until(lambda: len(control.of("j.n")) > before, "it is told to the next session")
    assert len(pulls(machine)) == 1


async def test_the_same_order_again_is_answered_and_not_done_again(control, machine):
    image = machine.publish(APP)
    control.order(pull("j.n", APP, image))
    await control.done("j.n")
    machine.calls.clear()
    control.order(pull("j.n", APP, image), full=True)
    await until(lambda: len(control.of("j.n")) == 2, "it is told again")
    assert machine.calls == []


async def test_an_agent_that_was_killed_does_it_anew_and_finds_it_done(engine, machine, tmp_path):
    image = machine.publish(APP)
    async with Control(engine, tmp_path) as first:
        first.order(pull("j.n", APP, image))
        await first.done("j.n")
        await until((tmp_path / "images.json").exists, "notes are kept")
        pulled_at = first.images.notes.of(image.image_id).pulled_at
    async with Control(engine, tmp_path) as second:
        second.order(pull("j.n", APP, image), full=True)
        assert (await second.done("j.n")).unchanged
        assert second.images.notes.of(image.image_id).pulled_at == pulled_at
    assert len(pulls(machine)) == 1


async def test_notes_that_cannot_be_read_are_set_aside(engine, machine, tmp_path):
    (tmp_path / "images.json").write_text("{")
    async with Control(engine, tmp_path) as control:
        await until(lambda: control.inventory is not None, "it works")
    assert (tmp_path / "images.json.1").exists()


async def test_an_older_control_plane_is_told_nothing_of_it(engine, machine, tmp_path):
    machine.publish(APP)
    made = Control(engine, tmp_path)
    made.protocol = 2
    async with made as control:
        assert await control.images.pull(APP, "web-0", None) == machine.registry[APP].image.id
    assert made.frames == []
    assert pulls(machine) == [APP]


# what is asked before


async def test_a_control_plane_that_is_silent_does_not_hold_up_a_pull(engine, machine, tmp_path):
    machine.publish(APP)
    async with Control(engine, tmp_path) as control:
        control.images._grants._answer_seconds = 0.1
        control.grants[APP] = None
        assert await control.images.pull(APP, "web-0", None) == machine.registry[APP].image.id
        await control.images.find(APP, "web-1")
        assert len(control.sent(PullAsked)) == 1  # not asked again at once


async def test_a_question_ends_with_its_session(engine, machine, tmp_path):
    machine.publish(APP)
    async with Control(engine, tmp_path) as control:
        control.grants[APP] = None
        pulling = asyncio.create_task(control.images.pull(APP, "web-0", None))
        await until(lambda: control.sent(PullAsked), "it asks")
        control.close()
        assert await pulling == machine.registry[APP].image.id


async def test_a_login_comes_with_the_answer_and_goes_nowhere(control, machine, tmp_path, caplog):
    image = machine.publish(APP, password="hunter2-secret")
    control.grant(APP, image, login=RegistryLogin(username="u", password="hunter2-secret"))
    control.order(pull("j.n", APP, image))
    assert (await control.done("j.n")).state == "done"
    assert "hunter2-secret" not in repr(control.reports) + caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2-secret" in path.read_bytes()]


async def test_a_refusal_is_told_and_nothing_pulled(control, machine):
    image = machine.publish(APP)
    control.grants[APP] = PullGrant(reference=APP, kind="untrusted", text="not signed", retry_after_seconds=3.0)
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert (report.kind, report.text, report.retry_after_seconds) == ("untrusted", "not signed", 3.0)
    with pytest.raises(PullFailed, match="not signed"):
        await control.images.find(APP, "web-0")
    assert pulls(machine) == []


# replicas


async def test_a_replica_starts_from_the_very_image_that_was_resolved(control, machine, engine):
    machine.publish(APP)
    await engine.pull(APP)  # the tag as it was
    image = machine.publish(APP, version="2")
    control.grant(APP, image)
    found, wanted = await control.images.find(APP, "web-0")
    assert (found, wanted) == (None, image)
    assert await control.images.pull(APP, "web-0", wanted) == image.image_id
    assert machine.images[APP].id == image.image_id
    assert (await control.images.find(APP, "web-0"))[0] == image.image_id


async def test_two_generations_by_one_name_each_get_theirs(control, machine, engine):
    old, new = machine.publish(APP), machine.publish(APP, version="2")
    control.grant(APP, old)
    first = await control.images.pull(APP, "web-0", (await control.images.find(APP, "web-0"))[1])
    control.grant(APP, new)
    second = await control.images.pull(APP, "web-1", (await control.images.find(APP, "web-1"))[1])
    assert (first, second) == (old.image_id, new.image_id)
    for number, image_id in enumerate((first, second)):
        await engine.create(container(APP, image_id, name=f"web-{number}"))
    assert sorted(machine.used_images()) == sorted((old.image_id, new.image_id))


async def test_a_replica_does_not_wait_for_bulk_pulls(control, machine):
    names = [f"registry.test/bulk/{number}:1" for number in range(5)]
    for name in names:
        image = machine.publish(name)
        machine.held[f"{name.rpartition(':')[0]}@{image.manifest.digest}"] = asyncio.Event()
        control.order(pull(f"{name}.n", name, image))
    await until(lambda: len(pulls(machine)) == 2, "two of them began")
    image = machine.publish(APP)
    assert await control.images.pull(APP, "web-0", image) == image.image_id
    assert len(pulls(machine)) == 3


# a place on this machine


class Nearby:
    """A fetcher: offers what the test has put into the fake's registry under a local name."""

    def __init__(self, machine, *, broken=False):
        self.machine = machine
        self.broken = broken
        self.asked = []
        self.heard = None  # of its registry

    async def source(self, grant, image):
        self.asked.append(image.image_id)
        if self.broken:
            raise RuntimeError("a fault of the fetcher")
        return f"127.0.0.1:4567/shop/app@{image.manifest.digest}"

    def fault(self, image):
        return self.heard


async def test_a_pull_goes_through_a_place_on_this_machine(control, machine):
    image = machine.publish(APP, password="secret-word")
    local = f"127.0.0.1:4567/shop/app@{image.manifest.digest}"
    machine.registry[local] = dataclasses.replace(machine.registry[APP], password="")
    control.images.fetches_with(Nearby(machine))
    control.order(pull("j.n", APP, image))
    report = await control.done("j.n")
    assert report.state == "done"
    assert pulls(machine) == [local]
    assert list(machine.images) == [APP]  # the local name is gone


@pytest.mark.parametrize("broken", [True, False], ids=["the fetcher", "its place"])
async def test_what_fails_nearby_is_pulled_from_the_registry_once(control, machine, broken):
    image = machine.publish(APP)
    control.images.fetches_with(Nearby(machine, broken=broken))
    control.order(pull("j.n", APP, image))
    assert (await control.done("j.n")).state == "done"
    assert pulls(machine)[-1] == f"registry.test/shop/app@{image.manifest.digest}"
    assert len(pulls(machine)) == (1 if broken else 2)


@pytest.mark.parametrize("terms", [{"insecure": True}, {"ca_pem": "a CA"}, {"proxy": "http://proxy.test:3128"}, {}])
async def test_why_is_what_the_registry_said_and_not_that_an_engine_cannot_speak_to_it(control, machine, terms):
    image = machine.publish(APP)
    nearby = Nearby(machine)
    control.grant(APP, image, **terms)
    control.images.fetches_with(nearby)
    for kind in ("rate-limited", "registry-unreachable") * 2:
        machine.fail("pull", EngineError(kind, "tls: first record does not look like a TLS handshake"))
    control.order(pull("j.n", APP, image))
    assert (await control.done("j.n")).kind == ("rate-limited" if terms else "unreachable")
    nearby.heard = BlobError("denied", "the registry answered 401", retry_after_seconds=17.0)
    control.order(pull("k.n", APP, image))
    report = await control.done("k.n")
    assert (report.kind, report.text, report.retry_after_seconds) == ("denied", "the registry answered 401", 17.0)


@pytest.mark.parametrize("kind", ["registry-unreachable", "rate-limited", "denied"])
async def test_an_image_named_by_its_digest_does_without_a_registry_that_is_away(control, machine, engine, kind):
    image = machine.publish(APP)
    by_digest = f"registry.test/shop/app@{image.manifest.digest}"
    machine.registry[f"127.0.0.1:4567/shop/app@{image.manifest.digest}"] = machine.registry[APP]
    control.grant(by_digest, image)
    control.images.fetches_with(Nearby(machine))
    real = engine.pull

    async def only_nearby(name, *more):
        if name == by_digest:
            machine.calls.append(("pull", name))
            raise EngineError(kind, "x509: certificate signed by unknown authority")
        return await real(name, *more)

    engine.pull = only_nearby
    control.order(pull("j.n", by_digest, image))
    report = await control.done("j.n")
    if kind == "denied":
        assert (report.state, report.kind) == ("failed", "denied")
        assert (await control.images.find(by_digest, "web-0"))[0] is None
        return
    assert (report.state, report.image_id) == ("done", image.image_id)
    assert any("without the name of its digest" in line for line in report.log)
    assert (await control.images.find(by_digest, "web-0"))[0] == image.image_id
    control.order(pull("k.n", by_digest, image))
    assert (await control.done("k.n")).unchanged
    assert pulls(machine).count(by_digest) == 1, "it is not asked for the name each time"


async def test_a_loaded_image_comes_from_neighbours_alone_and_is_protected(control, machine):
    image = machine.publish(APP)
    local = f"127.0.0.1:4567/shop/app@{image.manifest.digest}"
    control.images.fetches_with(Nearby(machine))
    control.order(pull("j.n", APP, image, action=ImageAction.LOAD))
    assert (await control.done("j.n")).kind == "unreachable"
    assert pulls(machine) == [local]
    machine.registry[local] = machine.registry[APP]
    control.order(pull("j.n", APP, image, action=ImageAction.LOAD, attempt=2))
    assert (await control.done("j.n", 2)).state == "done"
    control.order(clean("k.n"))
    (verdict,) = (await control.done("k.n")).verdicts
    assert verdict.outcome == "protected"


# removals


async def test_a_delete_is_done_by_full_name_and_the_bytes_counted(control, machine, engine):
    image = machine.publish(APP)
    await engine.pull(APP)
    control.order(delete("j.n", APP))
    report = await control.done("j.n")
    assert (report.state, [each.outcome for each in report.verdicts]) == ("done", ["deleted"])
    assert machine.known(image.image_id) is None
    assert ("delete_image", APP) in machine.calls


async def test_a_dry_run_says_what_happens_and_then_it_does(control, machine, engine):
    for number in range(4):
        machine.publish(f"registry.test/app:{number}", version=str(number))
        await engine.pull(f"registry.test/app:{number}")
    await engine.create(container("registry.test/app:0"))
    control.needed = {"registry.test/app:1"}
    control.order(clean("dry.n", keep=("*:2",), dry_run=True))
    dry = await control.done("dry.n")
    assert sorted(machine.images) == [f"registry.test/app:{number}" for number in range(4)]
    control.order(clean("real.n", keep=("*:2",)))
    real = await control.done("real.n")

    def told(report):
        return {each.reference: each.outcome.replace("deleted", "delete") for each in report.verdicts}

    assert told(dry) == told(real)
    assert told(real)["registry.test/app:3"] == "delete"
    assert sorted(machine.images) == ["registry.test/app:0", "registry.test/app:1", "registry.test/app:2"]
    assert dry.state == real.state == "done"


async def test_a_delete_of_what_is_used_fails_and_says_by_what(control, machine, engine):
    machine.publish(APP)
    await engine.pull(APP)
    await engine.create(container(APP))
    control.order(delete("j.n", APP), delete("k.n", "registry.test/not/there:1"))
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "in-use")
    assert "container" in report.text
    absent = await control.done("k.n")
    assert (absent.state, absent.verdicts[0].outcome) == ("done", "absent")


async def test_what_came_into_use_since_the_plan_stays(control, machine, engine):
    machine.publish(APP)
    await engine.pull(APP)
    looks = 0
    whole = engine.images

    async def images():
        nonlocal looks
        looks += 1
        if looks == 2:
            await engine.create(container(APP))
        return await whole()

    await until(lambda: control.inventory, "the first look is over")
    engine.images = images
    control.order(delete("j.n", APP))
    assert (await control.done("j.n")).verdicts[0].outcome == "in-use"
    assert ("delete_image", APP) not in machine.calls


async def test_an_engine_that_is_lost_while_deleting_ends_it(control, machine, engine):
    for number in range(3):
        machine.publish(f"registry.test/app:{number}", version=str(number))
        await engine.pull(f"registry.test/app:{number}")
    machine.fail("delete_image", EngineError("unreachable", "the engine is gone"))
    control.order(clean("j.n"))
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "unreachable")
    assert [each.outcome for each in report.verdicts] == ["failed"] * 3
    control.order(clean("j.n", attempt=2))
    assert (await control.done("j.n", 2)).state == "done"
    assert machine.images == {}


async def test_a_disk_nearly_full_is_relieved_and_told(engine, machine, tmp_path):
    old = machine.publish(APP)
    await engine.pull(APP)
    size = machine.info.disk_bytes
    machine.info = dataclasses.replace(machine.info, disk_free_bytes=size // 10)
    now = 1_000_000.0
    async with Control(engine, tmp_path, clock=lambda: now) as control:
        await until(lambda: control.images.notes.of(old.image_id).last_needed_at, "it is known")
        assert APP in machine.images  # seen just now
        now += 3600
        control.images.inventory.new_session()
        await until(lambda: APP not in machine.images, "it is gone")
        await until(lambda: control.inventory.warning, "it is told")
    assert "nearly full" in control.inventory.warning
    assert control.reports == []


async def test_a_disk_that_stays_full_is_told_once_and_not_looked_at_all_the_time(
    engine, machine, tmp_path, monkeypatch
):
    monkeypatch.setattr(inventory, "DEBOUNCE_SECONDS", 0.0)
    looks, disk = [], engine.disk
    monkeypatch.setattr(engine, "disk", lambda: looks.append(1) or disk())
    machine.publish(APP)
    await engine.pull(APP)  # just now, so that it stays
    machine.info = dataclasses.replace(machine.info, disk_free_bytes=0)
    async with Control(engine, tmp_path) as control:
        await until(lambda: control.inventory and control.inventory.warning, "it is told")
        before = len(looks)
        for number in range(20):
            control.order(clean(f"j{number}.n"))
            await control.done(f"j{number}.n")
        assert len(looks) - before <= 22


async def test_a_disk_too_full_to_list_images_is_told(engine, machine, tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "DEBOUNCE_SECONDS", 0.0)
    machine.publish(APP)
    await engine.pull(APP)
    async with Control(engine, tmp_path) as control:
        await until(lambda: control.inventory and control.inventory.images, "its images are told")
        full = EngineError("no-space", "write /var/tmp/1: no space left on device")
        machine.fail("images", *[full] * 5)
        machine.publish("registry.test/other:1")
        await engine.pull("registry.test/other:1")
        await until(lambda: control.inventory.warning, "it is told")
        assert "disk is full" in control.inventory.warning
        assert control.inventory.images != ()


# the inventory


async def test_an_inventory_is_told_on_a_session_and_when_something_changes(control, machine, engine):
    await until(lambda: control.sent(ImagesReported), "the first one")
    machine.publish(APP)
    await engine.pull(APP)
    await until(lambda: control.inventory.images, "the change")
    count = len(control.sent(ImagesReported))
    control.images.inventory._changed.set()  # an audit that finds the same
    await until(lambda: not control.images.inventory._changed.is_set(), "it looks")
    await asyncio.sleep(0.1)
    assert len(control.sent(ImagesReported)) == count
    control.close()
    control.open()
    await until(lambda: len(control.sent(ImagesReported)) > count, "told anew")


async def test_an_engine_that_is_away_is_looked_at_again(engine, machine, tmp_path, monkeypatch):
    monkeypatch.setattr("fallow.agent.inventory.RETRY_SECONDS", 0.05)
    machine.set_online(False)
    async with Control(engine, tmp_path) as control:
        await until(lambda: ("images", "") in machine.calls, "it looks")
        assert control.inventory is None
        machine.set_online(True)
        await until(lambda: control.inventory is not None, "it is found")


async def test_what_a_control_plane_would_not_take_is_left_out(control, machine, engine):
    """Else it would end the session, and the next one too."""
    image = machine.publish(APP)
    await engine.pull(APP)
    for number in range(300):
        await engine.tag(image.image_id, f"registry.test/many:{number:03}")
    await engine.tag(image.image_id, "registry.test/" + "a" * 600 + ":1")
    await control.images.find("b" * 600, "web-0")

    def names_told():
        return sum(len(image.references) for image in control.inventory.images)

    await until(lambda: control.inventory and names_told() > 250, "it is told")
    for frame in control.frames:
        assert decode_from_member(encode_frame(frame)[4:]) == frame
    assert not control.sent(PullAsked)


def test_an_inventory_that_does_not_fit_says_how_much_is_left_out():
    layers = tuple(f"sha256:{number:064x}" for number in range(500))
    images = tuple(NodeImage(id=f"sha256:{number:064x}", layers=layers) for number in range(2500))
    fitting = _that_fit(images)
    assert 100 < len(fitting) < 2000
    encode_frame(ImagesReported(images=fitting, omitted=len(images) - len(fitting)))
    assert len(_that_fit(tuple(NodeImage(id=image.id) for image in images))) == 2000
