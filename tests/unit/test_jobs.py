"""Jobs as their users see them: classes and functions, options, enqueueing, on a broker that is no Sidekiq."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from penstock.app import open_broker
from penstock.errors import ArgumentError, ConfigurationError, UnknownType
from penstock.inspector import Inspector
from penstock.job import DISCARD, JOBS, Job, job
from penstock.job_registry import Jobs
from penstock.job_route import install, route
from penstock.sidekiq import Client
from penstock.testing import ManualClock

NOW = 1_800_000_000.0


class CartJob(Job, queue="critical", retry=5):
    async def perform(self, a, b="x"):
        ran.append((self.jid, a, b))


class TallyJob(Job):
    def perform(self, *args):
        ran.append((self.jid, *args))


@job(queue="images", tags=["slow"])
def resize(image, width):
    """Make it smaller."""
    return f"{image} at {width}"


ran: list = []


@pytest.fixture
def broker():
    return open_broker("memory://")


@pytest.fixture(autouse=True)
def client(broker):
    ran.clear()
    yield Client(broker, clock=ManualClock(NOW)).install()
    install(None)


async def waiting(broker, queue):
    return [
        (message.type, json.loads(message.body), {k: v for k, v in message.headers.items() if k != "jid"})
        for message in await Inspector(broker).peek(queue, 100)
    ]


CREATED = {"created_at": int(NOW * 1000)}


async def test_a_job_goes_to_the_queue_of_its_class_with_the_options_of_its_class(broker):
    jid = await CartJob.perform_async(1, "b")
    assert 24 == len(jid)
    assert set(jid) <= set("0123456789abcdef")
    assert [("CartJob", [1, "b"], {"retry": 5, **CREATED})] == await waiting(broker, "critical")
    (message,) = await Inspector(broker).peek("critical")
    assert jid == message.headers["jid"]


async def test_options_of_the_moment_win_and_can_be_kept_and_added_to(broker):
    low = CartJob.set(queue="low")
    await low.perform_async(1)
    await low.set(retry=False, colour="red").perform_async(2)
    await low.perform_async(3)
    assert [
        ("CartJob", [1], {"retry": 5, **CREATED}),
        ("CartJob", [2], {"retry": False, "colour": "red", **CREATED}),
        ("CartJob", [3], {"retry": 5, **CREATED}),
    ] == await waiting(broker, "low")


async def test_arguments_by_keyword_travel_in_the_order_of_the_parameters(broker):
    await CartJob.perform_async(b="b", a=1)
    await CartJob.perform_async(a=2)
    assert [[1, "b"], [2, "x"]] == [args for _, args, _ in await waiting(broker, "critical")]


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 2}), ((), {"b": 2})])
async def test_arguments_that_perform_does_not_take_are_refused_where_they_are_given(broker, args, kwargs):
    with pytest.raises(ArgumentError, match=r"CartJob\.perform takes \(a, b='x'\)"):
        await CartJob.perform_async(*args, **kwargs)
    with pytest.raises(ArgumentError, match=r"CartJob\.perform takes"):
        await CartJob.perform_bulk([(1,), (1, 2, 3)])
    assert [] == await Inspector(broker).sources()


@pytest.mark.parametrize(
    "when", [60, 60.0, timedelta(minutes=1), NOW + 60, datetime.fromtimestamp(NOW + 60, UTC)], ids=repr
)
async def test_an_interval_and_a_moment_are_told_apart_by_size(broker, when):
    for enqueue in (CartJob.perform_in, CartJob.perform_at):
        await enqueue(when, 1)
    await CartJob.set(wait=when).perform_async(1)
    await CartJob.set(wait_until=when).perform_async(1)
    assert 4 == (await Inspector(broker).stats("critical"))[0].delayed


@pytest.mark.parametrize("when", [0, -5, NOW, 1_500_000_000])
async def test_what_lies_in_the_past_runs_at_once(broker, when):
    await CartJob.perform_at(when, 1)
    assert [("CartJob", [1], {"retry": 5, **CREATED})] == await waiting(broker, "critical")


@pytest.mark.parametrize("when", ["soon", None, True, float("nan"), datetime(2026, 11, 21)])  # noqa: DTZ001 the subject
async def test_what_is_no_moment_is_refused(when):
    with pytest.raises(ArgumentError, match=r"datetime with a time zone|has no time zone"):
        await CartJob.set(wait=1).perform_in(when, 1)


async def test_wait_and_wait_until_do_not_go_together():
    with pytest.raises(ArgumentError, match="two ways to say one thing"):
        CartJob.set(wait=1, wait_until=2)


async def test_a_function_can_be_called_and_enqueued(broker):
    assert "a.png at 3" == resize("a.png", 3)
    assert "Make it smaller." == resize.__doc__
    await resize.perform_async("a.png", 3)
    await resize.set(queue="low").perform_async("a.png", width=4)
    assert [("resize", ["a.png", 3], {"tags": ["slow"], **CREATED})] == await waiting(broker, "images")
    assert [("resize", ["a.png", 4], {"tags": ["slow"], **CREATED})] == await waiting(broker, "low")
    assert resize.job is JOBS.resolve("resize")
    with pytest.raises(ArgumentError, match=r"resize\.perform takes \(image, width\)"):
        await resize.perform_async("a.png")


def test_code_without_a_loop_enqueues_as_well(broker):
    jids = [
        CartJob.sync.perform_async(1),
        CartJob.set(queue="low").sync.perform_in(60, 1),
        resize.sync.perform_async("a", 1),
    ]
    jids += CartJob.sync.perform_bulk((n,) for n in range(3))
    assert 6 == len(set(jids))
    assert CartJob.sync.perform_inline(1) is True
    assert [1] == [a for _, a, _ in ran]


async def test_perform_inline_runs_the_job_as_a_worker_would_get_it():
    assert await CartJob.perform_inline(1) is True
    assert await CartJob.set(sync=True).perform_async(2) is None
    assert await TallyJob.perform_inline({"a": [1]}) is True  # a plain function: in a thread
    assert [
        [1, "x"],
        [2, "x"],
        [{"a": [1]}],
    ] == [list(args) for _, *args in ran]
    assert all(len(jid) == 24 for jid, *_ in ran)
    with pytest.raises(ArgumentError):
        await TallyJob.perform_inline((1, 2))
    with pytest.raises(UnknownType, match="no job named 'Nobody'"):
        await route().perform_inline({"class": "Nobody", "args": []})


def test_options_are_inherited_and_a_change_shows_in_those_who_said_nothing_themselves():
    class Base(Job, abstract=True, queue="base", retry=3):
        pass

    class Silent(Base):
        def perform(self): ...

    class Own(Base, retry=1):
        sidekiq_options = {"backtrace": True}  # noqa: RUF012 Sidekiq's own way to say it

        def perform(self): ...

    assert {"retry": 3, "queue": "base"} == Silent.sidekiq_options
    assert {"retry": 1, "queue": "base", "backtrace": True} == Own.sidekiq_options
    Base.set_sidekiq_options(tags=["t"])
    Base.queue_as("new")
    assert {"retry": 3, "queue": "new", "tags": ["t"]} == Silent.sidekiq_options
    assert "base" == Own.sidekiq_options["queue"]
    assert {"retry": True, "queue": "default"} == Job.sidekiq_options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue", ""),
        ("queue", None),
        ("retry", -1),
        ("retry", "yes"),
        ("backtrace", 1.5),
        ("retry_for", 1e9 + 1),
        ("retry_for", "1h"),
        ("dead", 0),
        ("tags", "one"),
        ("tags", [1]),
        ("retry_queue", 3),
    ],
)
def test_an_option_that_means_nothing_is_refused_wherever_it_is_given(name, value):
    with pytest.raises(ArgumentError, match=f"the option {name} is "):
        CartJob.set(**{name: value})
    with pytest.raises(ArgumentError, match=f"the option {name} is "):
        CartJob.set_sidekiq_options(**{name: value})
    with pytest.raises(ArgumentError, match=f"the option {name} is "):
        type(Job)("Wrong", (Job,), {"perform": lambda self: None}, **{name: value})


def test_a_class_is_found_by_its_wire_name_and_its_former_names():
    class Invoice(Job, wire_name="Billing::Invoice", aliases=["InvoiceWorker"]):
        def perform(self): ...

    assert Invoice is JOBS.resolve("Billing::Invoice")
    assert Invoice is JOBS.resolve("InvoiceWorker")
    assert JOBS.resolve("Invoice") is None
    assert JOBS.resolve("os.system") is None


@pytest.mark.parametrize("name", ["a/b", "a$b", "a|b", 3])
def test_a_wire_name_that_sidekiqs_pages_cannot_bear_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"without / \$ \|"):
        type(Job)("Wrong", (Job,), {"perform": lambda self: None}, wire_name=name)


def test_two_classes_of_one_wire_name_are_an_error_for_who_must_choose():
    jobs = Jobs()
    first, second = type("First", (), {}), type("Second", (), {})
    jobs.add(first, "A", "B")
    jobs.check()
    jobs.add(second, "A")
    assert first is jobs.resolve("B")
    for ask in (lambda: jobs.resolve("A"), jobs.check):
        with pytest.raises(ConfigurationError, match=r"the wire name 'A' is that of .*First and .*Second"):
            ask()


def test_a_class_defined_again_takes_the_place_of_the_former_one():
    def define():
        class Again(Job):
            def perform(self): ...

        return Again

    assert define() is not define()
    again = define()
    assert again is JOBS.resolve("Again")
    reloaded = type("CartJob", (), {"__module__": CartJob.__module__})
    jobs = Jobs()
    jobs.add(CartJob, "CartJob")
    jobs.add(reloaded, "CartJob")
    assert reloaded is jobs.resolve("CartJob")


def test_a_class_without_perform_cannot_be_enqueued_and_perform_cannot_need_keywords():
    class Empty(Job): ...

    with pytest.raises(ConfigurationError, match="has no perform"):
        Empty.set()
    with pytest.raises(ConfigurationError, match="must be given 'b' by keyword"):

        class Keyword(Job):
            def perform(self, a, *, b): ...


def test_hooks_are_kept_with_the_class_and_inherited():
    class Hooked(Job):
        def perform(self): ...

    @Hooked.retry_in
    def delay(count, error, payload):
        return 10 * count

    @Hooked.retries_exhausted
    def exhausted(payload, error):
        return DISCARD

    class Child(Hooked): ...

    assert 20 == Child.sidekiq_retry_in(2, ValueError(), {})
    assert DISCARD == Child.sidekiq_retries_exhausted({}, ValueError())
    assert CartJob.sidekiq_retry_in is None
    with pytest.raises(ConfigurationError, match="takes a function"):
        Hooked.retry_in(10)


def test_a_job_outside_of_a_worker_is_not_interrupted():
    assert CartJob().interrupted() is False
    assert "penstock.job" == CartJob().logger.name


async def test_without_a_client_the_error_says_how_to_make_one():
    install(None)
    with pytest.raises(ConfigurationError, match=r"\.install\(\)"):
        await CartJob.perform_async(1)


async def test_via_pushes_with_another_client_until_the_block_ends_however_it_ends(broker):
    other = open_broker("memory://")
    with pytest.raises(ZeroDivisionError), Client.via(Client(other)):  # noqa: PT012 the block is the subject
        await CartJob.perform_async(1)
        raise ZeroDivisionError
    await CartJob.perform_async(2)
    assert [[1]] == [args for _, args, _ in await waiting(other, "critical")]
    assert [[2]] == [args for _, args, _ in await waiting(broker, "critical")]
    with pytest.raises(ArgumentError, match="got None"), Client.via(None):
        pass


async def test_a_pool_of_the_class_or_of_the_moment_decides_where_a_job_goes(broker):
    shards = [open_broker("memory://"), open_broker("memory://")]

    class Sharded(Job, pool=Client(shards[0])):
        def perform(self): ...

    await Sharded.perform_async()
    await Sharded.set(pool=Client(shards[1])).perform_async()
    assert [1, 1] == [len(await waiting(shard, "default")) for shard in shards]
    assert [] == await Inspector(broker).sources()
    assert "pool" not in (await waiting(shards[0], "default"))[0][2]
