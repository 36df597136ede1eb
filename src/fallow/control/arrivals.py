"""Members and tokens as they will be once a batch of machines that join together is stored."""

from collections import defaultdict
from collections.abc import Sequence

from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.model.tokens import JoinToken


class Draft:
    """Starts as a snapshot and takes in one admitted machine after another, so that each sees those before it."""

    def __init__(self, snapshot: Snapshot) -> None:
        members = snapshot.members.values()
        self.members: dict[str, Member] = dict(snapshot.members)
        self.tokens: dict[str, JoinToken] = dict(snapshot.join_tokens)
        self.by_key: dict[str, Member] = {member.key_sha256: member for member in members}
        # Commands take a name or an id: a name that is another member's id would lead them astray.
        self.taken_names: set[str] = {member.name for member in members} | self.members.keys()
        self._by_address: dict[str, dict[str, Member]] = defaultdict(dict)
        self._puts: dict[str, Record] = {}  # by id; the last one of a record counts
        for member in members:
            self._by_address[member.lease.address][member.id] = member

    def at(self, address: str) -> Sequence[Member]:
        """Return the members that have this address."""
        return list(self._by_address[address].values())

    def put(self, step: Step) -> None:
        """Take in what is to be stored of one machine."""
        for record in step.puts:
            self._puts[record.id] = record
            if isinstance(record, Member):
                self._add(record)
            elif isinstance(record, JoinToken):
                self.tokens[record.id] = record

    def step(self) -> Step | None:
        """Return everything taken in as one step; None: nothing."""
        return Step(puts=tuple(self._puts.values())) if self._puts else None

    def _add(self, member: Member) -> None:
        self.members[member.id] = member
        self.by_key[member.key_sha256] = member
        self.taken_names |= {member.name, member.id}
        self._by_address[member.lease.address][member.id] = member
