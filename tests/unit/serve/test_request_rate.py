"""Each client has its own bucket of requests, which fills as time goes by."""

from __future__ import annotations

from distreid.serve import request_rate
from distreid.serve.request_rate import RequestRate


def test_a_bucket_is_emptied_and_fills() -> None:
    rate = RequestRate(2)
    assert [rate.takes("192.0.2.1", 10) for _ in range(3)] == [True, True, False]
    assert rate.takes("192.0.2.2", 10), "another client is not concerned"
    assert not rate.takes("192.0.2.1", 10.4)
    assert rate.takes("192.0.2.1", 10.6)
    assert [rate.takes("192.0.2.1", 1000) for _ in range(3)] == [True, True, False], "two at most"


def test_less_than_one_a_second_is_one_now_and_then() -> None:
    rate = RequestRate(0.1)
    asked = [second for second in range(31) if rate.takes("a", second)]
    assert asked[0] == 0 and len(asked) == 3


def test_one_network_of_ipv6_is_one_client_and_few_are_remembered() -> None:
    rate = RequestRate(1)
    assert rate.takes("2001:db8::1", 0) and not rate.takes("2001:db8::ffff", 0)
    assert rate.takes("2001:db8:0:1::1", 0)
    for number in range(request_rate.MAX_CLIENTS):
        rate.takes(f"client {number}", 0)
    assert len(rate._left) == request_rate.MAX_CLIENTS
    assert rate.takes("2001:db8::1", 0), "forgotten"
