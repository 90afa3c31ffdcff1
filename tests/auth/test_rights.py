"""A management key never gives what it has not: rights as sets, against what each lets through, request by request."""

from ipaddress import ip_address, ip_network
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from xrouter.auth.rights import Rights, check_within, limit_within
from xrouter.errors import Forbidden
from xrouter.store.key import LimitReset, NewKey

MODELS = ("gigachat/max", "gigachat/max:rc", "gigachat/pro", "yandexgpt/pro")
SCOPES = (*MODELS, "gigachat/*", "yandexgpt/*")
ADDRESSES = ("10.0.0.1", "10.0.1.1", "192.0.2.1")
NETWORKS = ("10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "192.0.2.0/24", "2001:db8::/32")
RESETS: tuple[LimitReset | None, ...] = (None, "daily", "weekly", "monthly")

rights = st.builds(
    Rights,
    account=st.sampled_from(["a", "b"]),
    tier=st.sampled_from([None, "free"]),
    models=st.none() | st.lists(st.sampled_from(SCOPES), min_size=1, max_size=3, unique=True).map(tuple),
    networks=st.none() | st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True).map(tuple),
    expires_at_us=st.none() | st.integers(1, 3),
    limit_nano=st.none() | st.integers(0, 3),
    limit_reset=st.sampled_from(RESETS),
)


def allows(right: Rights, account: str, tier: str | None, model: str, address: str, at_us: int) -> bool:
    """Whether a request by somebody with `right` goes through, written down anew and without sets."""
    base = model.partition(":")[0]
    return (
        right.account == account
        and right.tier == tier
        and (right.models is None or bool({model, base, base.partition("/")[0] + "/*"} & set(right.models)))
        and (right.networks is None or any(ip_address(address) in ip_network(each) for each in right.networks))
        and (right.expires_at_us is None or at_us < right.expires_at_us)
    )


@given(rights, rights)
def test_what_is_within_lets_no_request_through_that_the_whole_does_not(wanted: Rights, own: Rights) -> None:
    try:
        check_within(wanted, own)
    except Forbidden:
        return
    for request in product(["a", "b"], [None, "free"], MODELS, ADDRESSES, range(4)):
        assert allows(own, *request) or not allows(wanted, *request), request


DAYS = 62  # of two months of 31 days, the first a Monday


def most_spent(right: Rights, first: int, last: int) -> int | None:
    """The most that can be spent from one day to another, both included; None: without bound."""
    if right.limit_nano is None:
        return None
    window = {
        None: lambda day: 0,
        "daily": lambda day: day,
        "weekly": lambda day: day // 7,
        "monthly": lambda day: day // 31,
    }
    windows = {window[right.limit_reset](day) for day in range(first, last + 1)}
    return right.limit_nano * len(windows)


@given(rights, rights)
def test_a_limit_within_another_never_lets_more_be_spent(wanted: Rights, own: Rights) -> None:
    if not limit_within(wanted, own):
        return
    for first in range(0, DAYS, 3):
        for last in range(first, DAYS, 5):
            of_own, of_wanted = most_spent(own, first, last), most_spent(wanted, first, last)
            assert of_own is None or (of_wanted is not None and of_wanted <= of_own)


@given(rights)
def test_what_is_inherited_whole_is_within(own: Rights) -> None:
    new = own.inherited_by(NewKey(name="n", account=own.account, tier=own.tier))
    check_within(Rights.of(new), own)
    assert Rights.of(new).limit_nano == own.limit_nano


def test_a_week_may_lie_in_two_months() -> None:
    weekly, monthly = (Rights("a", None, limit_nano=1, limit_reset=reset) for reset in RESETS[2:])
    assert not limit_within(monthly, weekly)
    assert not limit_within(weekly, monthly)
