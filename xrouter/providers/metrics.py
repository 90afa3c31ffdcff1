"""What the upstreams know of their retries, their shadow copies and their credentials, read when it is asked for."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xrouter.providers.upstreams import Upstream
from xrouter.world import World


def upstream_metrics(upstreams: Mapping[str, Upstream], world: World) -> Iterator[Metric]:
    """Credentials are told apart by their place in the configuration's list, where there are several."""
    retries = CounterMetricFamily("xrouter_retries", "Further tries at upstreams", labels=["upstream", "result"])
    shadows = CounterMetricFamily("xrouter_shadow", "Copies of calls, by their end", labels=["upstream", "result"])
    calls = GaugeMetricFamily(
        "xrouter_credential_calls", "Calls under way and waiting", labels=["upstream", "credential", "state"]
    )
    resting = GaugeMetricFamily(
        "xrouter_credential_resting_seconds", "How long it is still left alone", labels=["upstream", "credential"]
    )
    now = world.monotonic()
    for name, upstream in upstreams.items():
        retries.add_metric([name, "made"], upstream.retry_budget.made)
        retries.add_metric([name, "over_budget"], upstream.retry_budget.refused)
        for result, number in upstream.shadow_results.items():
            shadows.add_metric([name, result], number)
        if upstream.credentials.several:
            for credential in upstream.credentials.all:
                index, gate = str(credential.index), credential.caller.gate
                calls.add_metric([name, index, "active"], gate.active)
                calls.add_metric([name, index, "waiting"], gate.waiting)
                resting.add_metric([name, index], credential.rests_for_s(now))
    yield from (retries, shadows, calls, resting)
