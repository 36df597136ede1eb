"""The agent's state machine, one story at a time."""

import pickle

import msgspec
import pytest

from fallow.decide.agent import AgentMachine, fingerprint
from fallow.decide.agent import messages as m
from fallow.model.containers import ContainerSpec, HealthCheck, PortSpec, RestartCondition, RestartPolicy
from fallow.model.deployments import Activity, Health
from fallow.model.wire import Assignment

IMAGE = "registry.example/web:1"
PIN = "default/web#1"
TCP = HealthCheck(kind="tcp", interval_seconds=1.0, retries=3)


def wish(id_="r1", run=True, **spec):
    spec.setdefault("image", IMAGE)
    spec.setdefault("ports", (PortSpec(container=8080),))
    return Assignment(
        replica_id=id_,
        deployment="default/web",
        generation=1,
        run=run,
        container=ContainerSpec(**spec),
        host_ports={"8080/tcp": 20001},
    )


def container(of, status="running", **more):
    more.setdefault("spec_hash", fingerprint(of))
    return m.ContainerFact(id=f"c-{of.replica_id}", replica_id=of.replica_id, status=status, **more)


class Story:
    """Feeds events and remembers instructions; invariants are checked at every step."""

    def __init__(self, *, containers=(), listed=True):
        self.machine = AgentMachine()
        self.now = 1000.0
        self.last = []
        if listed:
            self.list(*containers)

    def feed(self, event, after=0.0):
        self.now += after
        self.last = self.machine.handle(event, self.now)
        self.machine.check_invariants()
        return self.last

    def list(self, *containers):
        (asked,) = [found for found in self.feed(m.EngineBack()) if isinstance(found, m.ListContainers)]
        return self.feed(m.EngineListed(mark=asked.mark, containers=containers))

    def assign(self, *assignments, full=True, removed=()):
        return self.feed(m.Assigned(full=full, assignments=assignments, removed=removed))

    def find(self, kind):
        return [found for found in self.last if isinstance(found, kind)]

    def one(self, kind):
        (found,) = self.find(kind)
        return found

    def seen(self):
        return self.one(m.Report).observations[-1]

    def start(self, assignment, **fact):
        """Take a new replica to its first moment of running."""
        self.assign(assignment)
        self.feed(m.ImageReady(reference=assignment.container.image, pin=PIN))
        assert self.one(m.StartContainer).assignment == assignment
        return self.feed(m.ContainerStarted(replica_id=assignment.replica_id, container=container(assignment, **fact)))

    def timer(self, kind):
        (found,) = [timer for timer in self.find(m.SetTimer) if timer.key[0] == kind]
        return found

    def fire(self, timer):
        self.now = max(self.now, timer.at)
        return self.feed(m.TimerFired(key=timer.key, serial=timer.serial))

    def probe(self, outcome, after=0.0):
        """Answer the newest probe, and go on to the next one."""
        probe = self.one(m.Probe)
        self.feed(
            m.ProbeResult(replica_id=probe.replica_id, serial=probe.serial, outcome=outcome, text="refused"), after
        )
        reports = self.find(m.Report)
        self.fire(self.timer("probe"))
        return reports[0].observations[-1] if reports else None

    def exit(self, assignment, code, after=0.0):
        """Let the running container end."""
        self.feed(m.ContainerChanged(replica_id=assignment.replica_id, container_id=container(assignment).id), after)
        asked = self.one(m.InspectContainer)
        return self.feed(
            m.ContainerSeen(
                replica_id=assignment.replica_id,
                container_id=asked.container_id,
                mark=asked.mark,
                container=container(assignment, "exited", exit_code=code),
            )
        )


def test_a_replica_goes_from_image_to_healthy():
    story = Story()
    web = wish(health=TCP)
    story.assign(web)
    assert story.last[0] == m.SaveJournal(assignments=(web,), failed={}, serial=0)
    assert story.one(m.FindImage).reference == IMAGE
    assert not story.find(m.Report), "waiting is nothing to tell"
    story.feed(m.ImageMissing(reference=IMAGE, pin=PIN))
    assert story.one(m.PullImage).reference == IMAGE
    assert story.seen().activity is Activity.PULLING
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert story.seen().activity is Activity.CREATING
    story.feed(m.ContainerStarted(replica_id="r1", container=container(web)))
    assert (story.seen().activity, story.seen().health, story.seen().started) == (
        Activity.RUNNING,
        Health.STARTING,
        True,
    )
    assert story.one(m.Probe).port == 8080
    assert story.probe("ok").health is Health.HEALTHY


def test_without_a_check_it_is_healthy_at_once():
    story = Story()
    story.start(wish())
    assert story.seen().health is Health.HEALTHY
    assert not story.find(m.Probe)


def test_readiness_is_asked_quickly_but_failures_count_at_the_interval():
    story = Story()
    story.start(wish(health=TCP))
    begun = story.now
    told = []
    while not told:
        seen = story.probe("failed")
        assert story.now - begun < 5
        told = [seen] if seen else []
    assert told[0].health is Health.UNHEALTHY
    assert told[0].message == "refused"
    assert story.now - begun >= 3, "three failures at the interval, not three quick ones"
    assert story.probe("ok").health is Health.HEALTHY


def test_failures_in_the_start_period_do_not_count():
    story = Story()
    story.start(wish(health=HealthCheck(kind="tcp", interval_seconds=0.5, retries=1, start_period_seconds=5)))
    begun = story.now
    while story.now - begun < 4.5:
        assert story.probe("failed") is None
    assert story.probe("ok").health is Health.HEALTHY
    assert story.probe("failed").health is Health.UNHEALTHY, "the first success ends the start period"


def test_healthy_becomes_unhealthy_after_retries_in_a_row_and_probing_goes_on():
    story = Story()
    story.start(wish(health=TCP))
    story.probe("ok")
    assert [story.probe(found) for found in ("failed", "failed", "ok", "failed", "failed")] == [None] * 5
    assert story.probe("failed").health is Health.UNHEALTHY
    assert story.probe("failed") is None
    assert story.probe("unknown") is None
    assert story.probe("ok").health is Health.HEALTHY


def test_one_pull_for_many_replicas():
    story = Story()
    story.assign(wish("a"), wish("b"))
    assert len(story.find(m.FindImage)) == 1
    story.feed(m.ImageMissing(reference=IMAGE, pin=PIN))
    story.assign(wish("c"), full=False)
    assert not story.find(m.FindImage) and not story.find(m.PullImage)
    assert story.seen().activity is Activity.PULLING
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert [found.assignment.replica_id for found in story.find(m.StartContainer)] == ["a", "b", "c"]


def test_a_missing_image_is_tried_again_ever_later():
    story = Story()
    story.assign(wish())
    waits = []
    for _ in range(9):
        story.feed(m.ImageMissing(reference=IMAGE, pin=PIN))
        story.feed(m.ImageFailed(reference=IMAGE, pin=PIN, kind="not-found", text="manifest unknown"))
        timer = story.timer("image")
        waits.append(timer.at - story.now)
        seen = story.machine.observations()[0]
        assert (seen.activity, seen.message) == (Activity.BACKING_OFF, f"image {IMAGE}: manifest unknown")
        story.fire(timer)
        assert story.one(m.FindImage)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert story.one(m.StartContainer)


@pytest.mark.parametrize("kind", ["bad-request", "wrong-platform"])
def test_an_error_that_stays_is_final(kind):
    story = Story()
    story.assign(wish())
    story.feed(m.ImageFailed(reference=IMAGE, pin=PIN, kind=kind, text="no"))
    assert story.seen().activity is Activity.FAILED
    assert list(story.one(m.SaveJournal).failed) == ["r1"]
    story = Story()
    story.assign(wish())
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    story.feed(m.StartFailed(replica_id="r1", kind=kind, text="no"))
    assert story.seen().activity is Activity.FAILED


def test_a_port_in_use_is_tried_again():
    story = Story()
    story.assign(wish(restart=RestartPolicy(condition=RestartCondition.NEVER)))
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    story.feed(m.StartFailed(replica_id="r1", kind="port-in-use", text="20001 is taken", container=container(wish())))
    assert (story.seen().activity, story.seen().message) == (Activity.BACKING_OFF, "20001 is taken")
    story.fire(story.timer("retry"))
    assert story.one(m.StartContainer)


def test_a_container_that_ends_is_started_again_ever_later():
    story = Story()
    web = wish(restart=RestartPolicy(delay_seconds=1, max_delay_seconds=4, window_seconds=30))
    story.start(web)
    waits = []
    for _ in range(4):
        story.exit(web, 3, after=1)
        seen = story.seen()
        assert (seen.activity, seen.exit_code, seen.message) == (Activity.BACKING_OFF, 3, "exited with code 3")
        timer = story.timer("retry")
        waits.append(timer.at - story.now)
        story.fire(timer)
        story.feed(m.ContainerStarted(replica_id="r1", container=container(web)))
    assert waits == [1, 2, 4, 4]
    assert story.seen().restarts == 4
    story.exit(web, 3, after=31)
    assert story.timer("retry").at - story.now == 1, "running for the window resets the delay"


def test_the_restart_policy_runs_out():
    story = Story()
    web = wish(restart=RestartPolicy(max_attempts=1))
    story.start(web)
    story.exit(web, 1, after=1)
    story.fire(story.timer("retry"))
    story.feed(m.ContainerStarted(replica_id="r1", container=container(web)))
    story.exit(web, 1, after=1)
    assert story.seen().activity is Activity.FAILED
    assert "allows 1 attempts" in story.seen().message
    assert not story.find(m.StopContainer), "it stays for its log"


@pytest.mark.parametrize(
    ("condition", "code", "activity"),
    [
        (RestartCondition.NEVER, 1, Activity.FAILED),
        (RestartCondition.NEVER, 0, Activity.STOPPED),
        (RestartCondition.ON_FAILURE, 0, Activity.STOPPED),
        (RestartCondition.ON_FAILURE, 1, Activity.BACKING_OFF),
        (RestartCondition.ALWAYS, 0, Activity.BACKING_OFF),
    ],
)
def test_restart_conditions(condition, code, activity):
    story = Story()
    web = wish(restart=RestartPolicy(condition=condition))
    story.start(web)
    story.exit(web, code)  # in the very moment it was started
    assert story.seen().activity is activity


def test_a_container_that_ends_before_its_start_is_answered():
    story = Story()
    web = wish()
    story.assign(web)
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    story.feed(m.ContainerChanged(replica_id="r1", container_id="c-r1"))
    story.feed(m.ContainerStarted(replica_id="r1", container=container(web)))
    asked = story.one(m.InspectContainer)
    ended = container(web, "exited", exit_code=1)
    story.feed(m.ContainerSeen(replica_id="r1", container_id="c-r1", mark=asked.mark, container=ended))
    assert story.seen().activity is Activity.BACKING_OFF


def test_stopping_stops_removes_and_says_so():
    story = Story()
    web = wish(health=TCP, stop_grace_seconds=7.0)
    story.start(web)
    story.assign(wish(run=False, health=TCP, stop_grace_seconds=7.0), full=False)
    assert story.one(m.SaveJournal).assignments[0].run is False
    assert story.one(m.StopContainer) == m.StopContainer(replica_id="r1", container_id="c-r1", grace_seconds=7.0)
    assert story.seen().activity is Activity.STOPPING
    story.feed(m.ContainerStopped(replica_id="r1"))
    assert story.one(m.RemoveContainer).container_id == "c-r1"
    story.feed(m.ContainerRemoved(replica_id="r1"))
    assert story.seen().activity is Activity.STOPPED
    story.assign(web)
    assert story.one(m.Warn)
    assert not story.find(m.StartContainer), "a stopped replica is never started again"
    story.assign()
    story.list(container(web))
    assert story.one(m.StopContainer), "what is left of it is swept"


def test_a_stop_that_fails_is_tried_again():
    story = Story()
    story.start(wish())
    story.assign(wish(run=False))
    story.feed(m.StopFailed(replica_id="r1", kind="failed", text="device busy"))
    assert story.seen().message == "device busy"
    story.fire(story.timer("retry"))
    assert story.one(m.StopContainer)


def test_stopped_while_it_is_being_started():
    story = Story()
    story.assign(wish())
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    story.assign(wish(run=False))
    assert not story.find(m.StopContainer), "one operation at a time"
    story.feed(m.ContainerStarted(replica_id="r1", container=container(wish())))
    assert story.one(m.StopContainer)


def test_stopped_after_a_start_of_unknown_outcome_looks_first():
    story = Story()
    web = wish()
    story.assign(web)
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    story.feed(m.StartFailed(replica_id="r1", kind="unreachable", text="no answer in 120 s"))
    story.assign(wish(run=False))
    assert story.seen().activity is Activity.STOPPING
    story.fire(story.timer("list"))
    asked = story.one(m.ListContainers)
    story.feed(m.EngineListed(mark=asked.mark, containers=(container(web),)))
    assert story.one(m.StopContainer)


def test_a_removed_assignment_is_stopped_without_a_word():
    story = Story()
    story.start(wish())
    story.assign(full=False, removed=("r1",))
    assert story.one(m.StopContainer)
    assert not story.find(m.Report)
    assert story.machine.observations() == ()
    story.feed(m.ContainerStopped(replica_id="r1"))
    story.feed(m.ContainerRemoved(replica_id="r1"))
    assert story.machine.container_id("r1") == ""


def test_an_assignment_that_comes_back_while_leaving_is_made_anew():
    story = Story()
    web = wish()
    story.start(web)
    story.assign()
    story.assign(web)
    story.feed(m.ContainerStopped(replica_id="r1"))
    story.feed(m.ContainerRemoved(replica_id="r1"))
    assert story.one(m.FindImage)


def test_a_restarted_agent_adopts_and_says_nothing_before_it_has_probed():
    story = Story(listed=False)
    web = wish(health=TCP)
    story.feed(m.JournalLoaded(assignments=(web,), serial=5_000_000))
    assert not story.last
    story.list(container(web, started_at=900.0))
    assert not any(isinstance(found, m.StartContainer | m.StopContainer | m.Report) for found in story.last)
    assert story.probe("failed") is None
    seen = story.probe("ok")
    assert (seen.activity, seen.health, seen.container_id) == (Activity.RUNNING, Health.HEALTHY, "c-r1")
    assert seen.serial > 5_000_000, "serials go on where the journal ended"


def test_what_was_said_below_a_stored_serial_is_said_again_above_it():
    story = Story()
    web = wish()
    story.start(web)
    before = story.seen()
    story.feed(m.Assigned(full=True, assignments=(web,), serials={"r1": before.serial}))
    assert not story.find(m.Report), "what was heard is not repeated"
    story.feed(m.Assigned(full=True, assignments=(web,), serials={"r1": 9_000_000, "another": 9_500_000}))
    again = story.seen()
    assert again.serial > 9_000_000
    assert (again.activity, again.health) == (before.activity, before.health)


def test_what_met_a_serial_of_an_earlier_run_is_said_again():
    story = Story(listed=False)
    web = wish()
    story.feed(m.JournalLoaded(assignments=(web,), serial=5_000_000))
    story.list()
    story.feed(m.ImageReady(reference=web.container.image, pin=PIN))
    story.feed(m.ContainerStarted(replica_id="r1", container=container(web)))
    before = story.seen()
    assert before.activity is Activity.RUNNING
    story.feed(m.Assigned(full=True, assignments=(web,), serials={"r1": before.serial}))
    assert story.seen().serial > before.serial, "the stored word is of the run before, whose clock was ahead"
    story.feed(m.Assigned(full=True, assignments=(web,), serials={"r1": before.serial + 1}))
    assert not story.find(m.Report)


@pytest.mark.parametrize("first", ["list", "assign"])
def test_strays_are_removed_only_after_a_full_assignment(first):
    story = Story(listed=False)
    web, stray = wish(), wish("stray")
    if first == "list":
        story.list(container(web), container(stray))
        story.assign(web, full=False)
        assert not story.find(m.StopContainer)
        assert not story.find(m.SaveJournal), "half a picture is not kept"
        story.assign(web)
    else:
        asked = story.feed(m.EngineBack())[0]
        story.assign(web)
        assert not story.find(m.StopContainer)
        story.feed(m.EngineListed(mark=asked.mark, containers=(container(web), container(stray))))
    assert story.one(m.StopContainer).replica_id == "stray"
    assert not story.find(m.StartContainer)
    assert story.machine.container_id("r1") == "c-r1"


def test_an_out_of_date_container_is_replaced():
    story = Story(listed=False)
    web = wish()
    story.feed(m.JournalLoaded(assignments=(web,)))
    story.list(container(web, spec_hash="older"))
    assert story.one(m.StopContainer)
    story.feed(m.ContainerStopped(replica_id="r1"))
    story.feed(m.ContainerRemoved(replica_id="r1"))
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert story.one(m.StartContainer).spec_hash == fingerprint(web)


def test_another_spec_for_the_same_replica_is_ignored():
    story = Story()
    story.start(wish())
    story.assign(wish(command=("other",)))
    assert story.one(m.Warn)
    assert not story.find(m.StopContainer)


def test_failed_stays_failed_after_a_restart():
    story = Story(listed=False)
    web = wish()
    story.feed(m.JournalLoaded(assignments=(web,), failed={"r1": "exited with code 1"}))
    story.list(container(web, "exited", exit_code=1))
    assert not story.find(m.StartContainer)
    assert story.machine.observations()[0].message == "exited with code 1"


def test_after_a_reboot_containers_are_started_again():
    story = Story(listed=False)
    made, ended = wish("made"), wish("ended")
    story.feed(m.JournalLoaded(assignments=(made, ended)))
    story.list(container(made, "created"), container(ended, "exited", exit_code=137))
    assert story.one(m.StartContainer).assignment == made
    story.fire(story.timer("retry"))
    assert story.one(m.StartContainer).assignment == ended


def test_a_lost_engine_stops_nothing_but_work():
    story = Story()
    web = wish(health=TCP)
    story.start(web)
    probe = story.one(m.Probe)
    story.feed(m.EngineLost(text="connection refused"))
    assert not story.find(m.Report), "the container runs on"
    story.feed(m.ProbeResult(replica_id="r1", serial=probe.serial, outcome="ok"))
    assert story.seen().health is Health.HEALTHY
    story.assign(web, wish("r2"), wish("r3", run=False))
    assert not story.find(m.FindImage)
    assert {seen.message for seen in story.machine.observations()[1:]} == {
        "the container engine cannot be reached: connection refused"
    }
    story.list(container(web))
    assert story.one(m.FindImage)
    assert story.machine.observations()[-1].activity is Activity.STOPPED


def test_a_listing_older_than_an_operation_says_nothing_of_it():
    story = Story()
    asked = story.feed(m.EngineBack())[0]
    web = wish()
    story.start(web)
    story.feed(m.EngineListed(mark=asked.mark))
    assert story.machine.observations()[0].activity is Activity.RUNNING


def test_a_vanished_container_is_made_again():
    story = Story()
    story.start(wish())
    story.list()
    assert story.seen().message == "the container vanished"
    story.fire(story.timer("retry"))
    assert story.one(m.FindImage)


def test_stale_answers_change_nothing():
    story = Story()
    story.start(wish(health=TCP))
    for event in (
        m.TimerFired(key=("probe", "r1"), serial=0),
        m.TimerFired(key=("retry", "nobody"), serial=7),
        m.ProbeResult(replica_id="r1", serial=0, outcome="failed"),
        m.ContainerStopped(replica_id="r1"),
        m.ContainerRemoved(replica_id="nobody"),
        m.StopFailed(replica_id="r1", kind="failed", text=""),
        m.StartFailed(replica_id="nobody", kind="failed", text=""),
        m.ContainerStarted(replica_id="nobody", container=container(wish())),
        m.ImageReady(reference="other"),
        m.ImageFailed(reference="other", kind="failed", text=""),
        m.ContainerChanged(replica_id="r1", container_id="another"),
        m.EngineListed(mark=1),
        m.InspectFailed(replica_id="nobody"),
    ):
        assert story.feed(event) == [], event


def test_the_machine_can_be_pickled_and_is_deterministic():
    story = Story()
    story.start(wish(health=TCP))
    twin = pickle.loads(pickle.dumps(story.machine))
    event = m.ProbeResult(replica_id="r1", serial=story.one(m.Probe).serial, outcome="ok")
    assert twin.handle(event, 2000.0) == story.machine.handle(event, 2000.0)


def test_the_fingerprint_is_of_the_container_alone():
    base = fingerprint(wish())
    assert base == fingerprint(wish("other", health=TCP, stop_grace_seconds=1.0, restart=RestartPolicy(max_attempts=1)))
    assert base != fingerprint(wish(environment={"A": "1"}))
    assert fingerprint(wish(environment={"A": "1", "B": "2"})) == fingerprint(wish(environment={"B": "2", "A": "1"}))
    assert base != fingerprint(wish(ports=(PortSpec(container=8081),)))


def test_generations_that_mean_different_images_by_one_name_are_found_and_started_apart():
    story = Story()
    old, new = wish("r1"), msgspec.structs.replace(wish("r2"), generation=2)
    story.assign(old, new)
    assert [(each.pin, each.replica_id) for each in story.find(m.FindImage)] == [(PIN, "r1"), ("default/web#2", "r2")]
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN, image_id="sha256:1"))
    assert (story.one(m.StartContainer).assignment, story.one(m.StartContainer).image_id) == (old, "sha256:1")
    story.feed(m.ImageFailed(reference=IMAGE, pin="default/web#2", kind="not-found", text="no"))
    retry = story.timer("image")
    story.fire(retry)
    assert story.one(m.FindImage).pin == "default/web#2"
    story.feed(m.ImageMissing(reference=IMAGE, pin="default/web#2"))
    assert story.one(m.PullImage).pin == "default/web#2"
    story.feed(m.ImageReady(reference=IMAGE, pin="default/web#2", image_id="sha256:2"))
    assert (story.one(m.StartContainer).assignment, story.one(m.StartContainer).image_id) == (new, "sha256:2")
    assert {IMAGE, "sha256:1", "sha256:2"} <= story.machine.needed_images()


def test_a_host_port_is_published_again_only_when_its_container_is_gone():
    story, old, new = Story(), wish("r1"), wish("r2")
    story.start(old)
    story.assign(new)  # as a control plane does that was restored from a backup, and knows nothing of r1
    assert story.one(m.StopContainer).replica_id == "r1"
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert not story.find(m.StartContainer)
    assert "r1" in story.seen().message
    story.feed(m.ContainerStopped(replica_id="r1"))
    assert not story.find(m.StartContainer)
    story.feed(m.ContainerRemoved(replica_id="r1"))
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert story.one(m.StartContainer).assignment == new


def test_replicas_with_other_host_ports_wait_for_nobody():
    story, old = Story(), wish("r1")
    new = msgspec.structs.replace(wish("r2"), host_ports={"8080/tcp": 20002})
    story.start(old)
    story.assign(new)
    story.feed(m.ImageReady(reference=IMAGE, pin=PIN))
    assert story.one(m.StartContainer).assignment == new
