"""Leads of a host: those of one store follow each other, and one that was followed by another is stale."""

from hypothesis import given
from hypothesis import strategies as st
from records import NOW

from fallow.decide.federation.leads import KEPT, is_stale, lead_of, stale_text, with_lead
from fallow.model.peers import LEADER_ID, Leader


def test_the_same_process_that_leads_again_leads_anew() -> None:
    first, again = (
        Leader(id=LEADER_ID, created_at=NOW, updated_at=NOW, peer_id="p", revision=number) for number in (3, 9)
    )
    assert lead_of(first) != lead_of(again)


@given(st.lists(st.integers(0, 5), max_size=4 * KEPT))
def test_leads_that_follow_each_other_are_never_stale(steps: list[int]) -> None:
    """One store: its lead stays, or becomes one that never was."""
    known: tuple[str, ...] = ()
    lead = 0
    for step in steps:
        lead += step
        assert not is_stale(known, str(lead))
        known = with_lead(known, str(lead))
        assert known[-1] == str(lead)
        assert len(known) <= KEPT


@given(st.lists(st.sampled_from("ABC"), max_size=60))
def test_of_stores_that_speak_in_turns_only_the_one_that_came_last_is_obeyed(spoke: list[str]) -> None:
    """Copies of one store, each with one lead: none is obeyed again after another."""
    known: tuple[str, ...] = ()
    obeyed = []
    for lead in spoke:
        if not is_stale(known, lead):
            known = with_lead(known, lead)
            obeyed.append(lead)
    assert obeyed == sorted(obeyed, key=obeyed.index)


def test_a_host_that_does_not_name_its_lead_is_neither_stale_nor_kept() -> None:
    assert not is_stale(("a", "b"), "")
    assert with_lead(("a",), "") == ("a",)


def test_a_stale_host_is_named_with_what_to_do() -> None:
    text = stale_text("https://host.example:7443")
    assert "https://host.example:7443" in text
    assert "Stop the copy" in text
