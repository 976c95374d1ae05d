"""The contract of a store, checked: reservations have one owner, and end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import astuple

from ...store import Claim, Store, SupportsBudgets, SupportsTables
from ..clock import ManualClock


class StoreConformance:
    """Subclass, define ``make_store`` and, where the system keeps its own time, ``lapse``."""

    clock: ManualClock

    async def make_store(self) -> Store:
        """A store on this test's system; every call one more client of it."""
        raise AssertionError("a conformance class must define make_store()")

    async def lapse(self, seconds: float) -> None:
        """Let time pass for the system."""
        await self.clock.advance(seconds)

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        self.clock = ManualClock(start=time.time())
        store = await self.make_store()
        yield store
        await store.close()

    @pytest.fixture
    def key(self) -> str:
        return f"consumed:q:g:{uuid.uuid4().hex}:ü"

    async def test_the_first_to_come_gets_the_key(self, store: Store, key: str) -> None:
        assert await store.reserve(key, "a", 60) is Claim.NEW
        assert await store.reserve(key, "b", 60) is Claim.HELD

    async def test_an_owner_may_reserve_again(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.reserve(key, "a", 60) is Claim.NEW

    async def test_keys_are_told_apart(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.reserve(f"{key}2", "b", 60) is Claim.NEW

    @pytest.mark.parametrize("odd", ["x" * 700, "a \0 b ", "🦀" * 300])
    async def test_a_key_may_be_any_text(self, store: Store, key: str, odd: str) -> None:
        one, other = f"{key}{odd}1", f"{key}{odd}2"
        assert await store.reserve(one, "a", 60) is Claim.NEW
        assert await store.reserve(other, "b", 60) is Claim.NEW
        assert await store.reserve(one, "b", 60) is Claim.HELD
        assert await store.complete(one, "a", 60)
        assert await store.reserve(one, "b", 60) is Claim.DONE
        assert await store.release(other, "b")

    async def test_what_is_done_stays_done_for_its_time(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.complete(key, "a", 1)
        assert await store.reserve(key, "a", 60) is Claim.DONE
        assert await store.reserve(key, "b", 60) is Claim.DONE
        await self.lapse(1.2)
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_completing_twice_is_fine(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.complete(key, "a", 60)
        assert await store.complete(key, "a", 60)

    async def test_a_reservation_ends_by_itself(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 1)
        await self.lapse(1.2)
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_a_renewed_reservation_lives_on(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 1)
        await self.lapse(0.6)
        assert await store.renew(key, "a", 60)
        await self.lapse(0.6)
        assert await store.reserve(key, "b", 60) is Claim.HELD

    async def test_a_released_key_is_free(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.release(key, "a")
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_only_the_owner_renews_completes_and_releases(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert not await store.renew(key, "b", 60)
        assert not await store.complete(key, "b", 60)
        assert not await store.release(key, "b")
        assert await store.reserve(key, "c", 60) is Claim.HELD

    async def test_nothing_can_be_done_with_what_is_done_but_completing_it(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        await store.complete(key, "a", 60)
        assert not await store.renew(key, "a", 60)
        assert not await store.release(key, "a")
        assert await store.reserve(key, "a", 60) is Claim.DONE

    async def test_a_completion_without_a_reservation_counts(self, store: Store, key: str) -> None:
        """The reservation may have lapsed while the work was being done: done it is all the same."""
        assert await store.complete(key, "a", 60)
        assert await store.reserve(key, "b", 60) is Claim.DONE

    async def test_a_race_has_one_winner(self, store: Store, key: str) -> None:
        other = await self.make_store()
        claims = await asyncio.gather(*[(store, other)[n % 2].reserve(key, str(n), 60) for n in range(20)])
        await other.close()
        assert 1 == claims.count(Claim.NEW)
        assert 19 == claims.count(Claim.HELD)

    # --------------------------------------------------------------------------------------------------------- budgets

    @pytest.fixture
    def budgets(self, store: Store) -> SupportsBudgets:
        if not isinstance(store, SupportsBudgets):
            pytest.skip("the store keeps no budgets")
        return store

    async def test_a_budget_gives_no_more_than_its_limit_and_says_when_there_is_more(
        self, budgets: SupportsBudgets, key: str
    ) -> None:
        assert (0, 10, 0.0) == astuple(await budgets.spend(key, 10, 5.0, 0))
        assert (7, 3, 0.0) == astuple(await budgets.spend(key, 10, 5.0, 7))
        for count in (3, 0):
            grant = await budgets.spend(key, 10, 5.0, 7)
            assert (count, 0, True) == (grant.count, grant.left, 4.0 < grant.retry_after <= 5.2)
        assert 10 == (await budgets.spend(f"{key}2", 10, 5.0, 100)).count

    @pytest.mark.parametrize("odd", ["x" * 300, "a \0 b ", "🦀" * 300])
    async def test_a_budget_is_kept_whatever_its_name(self, budgets: SupportsBudgets, key: str, odd: str) -> None:
        for name in (f"{key}{odd}1", f"{key}{odd}2"):
            assert [1, 1, 0] == [(await budgets.spend(name, 2, 60.0, 1)).count for _ in range(3)]

    async def test_the_limit_holds_in_every_window_not_only_from_one_to_the_next(
        self, budgets: SupportsBudgets, key: str
    ) -> None:
        assert 2 == (await budgets.spend(key, 4, 1.0, 2)).count
        await self.lapse(0.6)
        assert 2 == (await budgets.spend(key, 4, 1.0, 4)).count
        await self.lapse(0.6)  # the first two are out of the window, the other two are not
        assert 2 == (await budgets.spend(key, 4, 1.0, 4)).count
        await self.lapse(1.1)
        assert 4 == (await budgets.spend(key, 4, 1.0, 9)).count

    async def test_several_who_spend_at_once_get_the_limit_together(self, budgets: SupportsBudgets, key: str) -> None:
        others = [await self.make_store() for _ in range(3)]
        stores = [each for each in (budgets, *others) if isinstance(each, SupportsBudgets)]
        try:
            grants = await asyncio.gather(*(each.spend(key, 25, 60.0, 5) for each in stores * 3))
        finally:
            for other in others:
                await other.close()
        assert 25 == sum(grant.count for grant in grants)

    # ---------------------------------------------------------------------------------------------------------- tables

    @pytest.fixture
    def tables(self, store: Store) -> SupportsTables:
        if not isinstance(store, SupportsTables):
            pytest.skip("the store keeps no tables")
        return store

    async def test_a_table_keeps_rows_as_they_were_put(self, tables: SupportsTables, key: str) -> None:
        assert {} == dict(await tables.rows(key))
        assert await tables.put(key, "b", b"\x00\xff")
        assert await tables.put(key, "a:\u00fc", b"")
        assert await tables.put(key, "b", b"new")
        assert {"a:\u00fc": b"", "b": b"new"} == dict(await tables.rows(key))
        assert {} == dict(await tables.rows(f"{key}2"))

    async def test_a_row_can_be_removed_and_is_not_missed(self, tables: SupportsTables, key: str) -> None:
        await tables.put(key, "a", b"1")
        assert await tables.put(key, "a", None)
        assert await tables.put(key, "a", None)
        assert {} == dict(await tables.rows(key))

    async def test_a_row_changes_only_from_what_is_expected(self, tables: SupportsTables, key: str) -> None:
        assert not await tables.put(key, "a", b"1", b"0")
        assert await tables.put(key, "a", b"1", None)
        assert not await tables.put(key, "a", b"2", None)
        assert not await tables.put(key, "a", b"2", b"")
        assert not await tables.put(key, "a", None, b"0")
        assert {"a": b"1"} == dict(await tables.rows(key))
        assert await tables.put(key, "a", b"2", b"1")
        assert await tables.put(key, "a", None, b"2")
        assert {} == dict(await tables.rows(key))

    async def test_of_several_who_change_a_row_at_once_one_does(self, tables: SupportsTables, key: str) -> None:
        others = [await self.make_store() for _ in range(3)]
        stores = [each for each in (tables, *others) if isinstance(each, SupportsTables)]
        try:
            await tables.put(key, "a", b"0")
            done = await asyncio.gather(
                *(each.put(key, "a", f"{n}".encode(), b"0") for n, each in enumerate(stores * 3, 1))
            )
        finally:
            for other in others:
                await other.close()
        assert 1 == done.count(True)
        assert f"{done.index(True) + 1}".encode() == (await tables.rows(key))["a"]
