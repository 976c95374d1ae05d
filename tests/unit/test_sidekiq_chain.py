"""Chains of middleware: order, moves, instances, stopping."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigurationError
from penstock.sidekiq import Chain, Context


class Base:
    def __init__(self, *args, **kwargs):
        self.args = (*args, *kwargs.items())

    async def call(self, trace, call_next):
        trace.append(("in", type(self).__name__, *self.args))
        result = await call_next()
        trace.append(("out", type(self).__name__))
        return result


class A(Base): ...


class B(Base): ...


class C(Base): ...


class D(Base): ...


def names(chain):
    return "".join(entry.kind.__name__ for entry in chain)


@pytest.fixture
def chain():
    chain = Chain()
    for kind in (A, B, C):
        chain.add(kind, kind.__name__.lower())
    return chain


def test_entries_are_put_in_moved_and_taken_out(chain):
    assert "ABC" == names(chain)
    chain.use(A)
    assert "BCA" == names(chain)
    chain.prepend(A)
    assert "ABC" == names(chain)
    chain.insert_before(B, D)
    assert "ADBC" == names(chain)
    chain.insert_after(C, A)
    assert "DBCA" == names(chain)
    chain.remove(B)
    assert "DCA" == names(chain)
    chain.insert_before(B, B)
    assert "BDCA" == names(chain)
    chain.remove(D)
    chain.insert_after(D, D)
    assert "BCAD" == names(chain)
    assert (True, False, 4) == (A in chain, Base in chain, len(chain))
    chain.clear()
    assert (0, False) == (len(chain), bool(chain))


async def test_a_moved_entry_keeps_its_arguments_and_an_added_one_has_new_ones(chain):
    chain.insert_before(A, C, "new")
    chain.add(A, "new", n=1)
    trace = []

    async def end():
        return "result"

    assert "result" == await chain.invoke(end, trace)
    assert [("in", "C", "c"), ("in", "B", "b"), ("in", "A", "new", ("n", 1))] == trace[:3]
    assert [("out", "A"), ("out", "B"), ("out", "C")] == trace[3:]


async def test_plain_functions_take_part_and_whoever_does_not_go_on_ends_it(chain):
    class Stop:
        def call(self, trace, call_next):
            return None

    class Pass:
        def call(self, trace, call_next):
            trace.append("pass")
            return call_next()

    chain.clear()
    chain.add(Pass)
    chain.add(A)
    trace = []

    async def end():
        trace.append("end")
        return True

    assert await chain.invoke(end, trace) is True
    assert ["pass", ("in", "A"), "end", ("out", "A")] == trace
    chain.add(Stop)
    trace.clear()
    assert await chain.invoke(end, trace) is None
    assert "end" not in trace


async def test_each_call_has_instances_of_its_own_which_get_the_configuration():
    made = []

    class Configured:
        config = None

        def __init__(self):
            made.append(self)

        async def call(self, call_next):
            return self.config

    chain = Chain(config="the configuration")
    chain.add(Configured)
    assert ["the configuration"] * 2 == [await chain.invoke(None), await chain.invoke(None)]
    assert 2 == len(set(map(id, made)))


def test_a_copy_is_changed_by_itself(chain):
    copy = chain.copy()
    copy.remove(A)
    assert ("ABC", "BC") == (names(chain), names(copy))


@pytest.mark.parametrize("wrong", [A(), int, None, lambda trace, call_next: call_next()])
def test_what_is_no_class_with_call_is_refused(chain, wrong):
    with pytest.raises(ConfigurationError, match="a middleware is a class with a method call"):
        chain.add(wrong)


def test_the_context_grows_within_blocks_and_is_as_before_after_them():
    assert {} == Context.current()
    with Context.with_({"jid": "a"}, queue="q"):
        with Context.with_(queue="r"):
            Context.add("more", 1)
            assert {"jid": "a", "queue": "r", "more": 1} == Context.current()
        assert {"jid": "a", "queue": "q"} == Context.current()
        with pytest.raises(ZeroDivisionError), Context.with_(x=1):
            1 / 0  # noqa: B018 the subject
    assert {} == Context.current()
