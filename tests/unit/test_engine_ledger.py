"""The ledger: what is held, under which lease, and whose outcome counts."""

from __future__ import annotations

from penstock.context import Context
from penstock.ledger import Ledger
from penstock.message import Delivery, Message
from penstock.outcome import ACK, Release


def delivery(ident: str = "1", receipt: int = 1, count: int = 1) -> Delivery[int]:
    message = Message(id=ident, type="t", body=b"{}")
    return Delivery(message=message, source="s", group="g", receipt=receipt, count=count)


def context(ident: str = "1") -> Context:
    return Context(
        id=ident,
        type="t",
        stream="s",
        group="g",
        worker="w",
        attempt=0,
        max_attempts=5,
        key=None,
        headers={},
        enqueued_at=None,
    )


def test_a_message_that_is_still_held_is_adopted_under_its_new_lease_and_not_queued_again() -> None:
    ledger, first, second = Ledger(5), delivery(receipt=1), delivery(receipt=2, count=2)
    ledger.add([first])
    assert ledger.waiting.popleft() is first
    ledger.add([second])
    assert list(ledger.waiting) == []
    ledger.finish(first, ACK)
    assert [(item.delivery.receipt, item.delivery.count) for item in ledger.finished] == [(2, 1)]


def test_the_old_lease_of_an_adopted_message_cannot_be_lost_any_more() -> None:
    ledger, first, second = Ledger(5), delivery(receipt=1), delivery(receipt=2, count=2)
    ledger.add([first])
    ledger.add([second])
    assert not ledger.lose(first)
    assert ledger.held["1"].receipt == second.receipt


def test_a_lost_delivery_is_held_no_longer_and_its_outcome_goes_nowhere() -> None:
    ledger, lost = Ledger(5), delivery()
    ledger.add([lost])
    ledger.waiting.popleft()
    running = ledger.contexts["1"] = context()
    assert ledger.lose(lost)
    assert running.lease_lost
    ledger.finish(lost, ACK)
    assert ledger.finished == []
    assert ledger.idle.is_set()


def test_a_delivery_lost_while_it_waits_is_never_started_even_if_its_message_comes_back() -> None:
    ledger, lost, again = Ledger(5), delivery(receipt=1), delivery(receipt=2)
    ledger.add([lost])
    assert ledger.lose(lost)
    ledger.add([again])
    assert list(ledger.waiting) == [again]


def test_a_running_message_that_comes_anew_as_after_the_loss_of_its_group_is_told_as_lost_and_run_again() -> None:
    ledger, old, new, told = Ledger(5), delivery(receipt=1), delivery(receipt=2), list[Delivery[int]]()
    ledger.on_lost = told.append
    ledger.add([old])
    assert ledger.waiting.popleft() is old
    ledger.add([new])
    assert list(ledger.waiting) == [new]
    assert told == [old]


def test_what_is_being_settled_cannot_be_lost() -> None:
    ledger, settled = Ledger(5), delivery()
    ledger.add([settled])
    ledger.settling.add("1")
    assert not ledger.lose(settled)
    assert "1" in ledger.held


def test_suspects_queue_apart_after_two_deaths_or_before_the_last_attempt() -> None:
    patient, strict = Ledger(5), Ledger(2)
    for ledger in (patient, strict):
        ledger.add([delivery(str(count), count=count) for count in (1, 2, 3)])
    assert [d.count for d in patient.waiting] == [1, 2]
    assert [d.count for d in patient.suspects] == [3]
    assert [d.count for d in strict.waiting] == [1]
    assert [d.count for d in strict.suspects] == [2, 3]


def test_giving_back_takes_only_what_no_slot_has_taken() -> None:
    ledger, started, waiting = Ledger(5), delivery("1"), delivery("2")
    ledger.add([started, waiting, delivery("3", count=3)])
    ledger.waiting.popleft()
    ledger.release_unstarted([started, waiting, *ledger.suspects])
    assert [(item.delivery.message.id, item.outcome) for item in ledger.finished] == [
        ("2", Release()),
        ("3", Release()),
    ]
    assert not ledger.waiting
    assert not ledger.suspects


def test_it_is_idle_when_all_is_forgotten_and_only_then() -> None:
    ledger, one, two = Ledger(5), delivery("1"), delivery("2")
    assert ledger.idle.is_set()
    ledger.add([one, two])
    ledger.forget([one])
    assert not ledger.idle.is_set()
    ledger.forget([two])
    assert ledger.idle.is_set()
