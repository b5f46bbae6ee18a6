"""The simulator against theory, its own bookkeeping, and the parts of the service that it runs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from loadtest import simulate
from loadtest.simulate_autoscaler import Autoscaler, Timing, direction_changes, oracle_seconds
from loadtest.simulate_cluster import Cluster, Layout, Proxy
from loadtest.simulate_costs import Device, GatewayCosts, Wire
from loadtest.simulate_elastic import admit, day_load, parameters
from loadtest.simulate_events import Events, Station
from loadtest.simulate_policies import ROUTING
from loadtest.simulate_predict import EMULATED, predict_one
from loadtest.simulate_report import result
from loadtest.simulate_views import sampled_view, subset, tokens_view
from loadtest.simulate_work import Bundle, BundlePolicy, Request, Traffic, cut, within
from serve_app.config import AdmissionSettings
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.types import Priority

NOTHING = GatewayCosts(0.0, 0.0, 0.0, 0.0, 0.0, "none")
AT_ONCE = Wire(0.0, 0.0, 0.0, 1, "none")
DEVICE = Device("test", 0.004, 64_000, "made up")
QUERIES = Traffic("query", 200.0, 1, 10, 40)
BULK = Traffic("bulk", 10.0, 600, 20, 70, Priority.BULK)
DOCUMENTS = Traffic("document", 8.0, 1, 8192, 8192)


def layout(replicas: int = 2, **changes: object) -> Layout:
    plain = Layout(DEVICE, replicas, costs=GatewayCosts(4e-4, 1e-5, 1e-3, 1e-6, 1e-7, "made up"), wire=AT_ONCE)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_events_happen_in_order_of_time_and_then_of_mention() -> None:
    events, seen = Events(), []
    for time, name in [(2.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "later")]:
        events.at(time, seen.append, name)
    events.run(5.0)
    assert (seen, events.now, len(events)) == (["a", "b", "c"], 5.0, 1)
    with pytest.raises(ValueError, match="has passed"):
        events.at(4.0, seen.append, "past")


def test_station_serves_in_order_with_its_servers() -> None:
    one, two = Station(), Station(2)
    assert [one.serve(t, 2.0) for t in (0.0, 1.0, 10.0)] == [2.0, 4.0, 12.0]
    assert [two.serve(t, 2.0) for t in (0.0, 1.0, 1.0)] == [2.0, 3.0, 4.0]
    assert one.busy_seconds == 6.0


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    def run(seed: int) -> dict[str, object]:
        cluster = Cluster(layout(4, gateways=3), [QUERIES, BULK, DOCUMENTS], seed)
        cluster.run(5.0)
        found = result(cluster)
        del found["host"]
        return found | {"latencies": [*cluster.latencies["query"]]}

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("policy", [*ROUTING, "sample"])
def test_every_input_is_answered_once(policy: str) -> None:
    view = sampled_view(2, 2) if policy == "sample" else ROUTING[policy](2)
    cluster = Cluster(layout(5, gateways=2, gateway_view=view), [QUERIES, BULK, DOCUMENTS], 3)
    cluster.run(3.0, drain=True)
    found = result(cluster)
    assert cluster.sent == cluster.answered and cluster.sent["bulk"] > 0 and cluster.sent["document"] > 0
    assert (found["inputs_left"], found["held_back_tokens"]) == (0, 0)
    assert sum(len(each) for each in cluster.latencies.values()) == sum(
        count // traffic.inputs for traffic in cluster.traffic for count in [cluster.sent[traffic.name]]
    )
    assert all(not gateway.in_flight_tokens for gateway in cluster.gateways)
    assert all(not replica.outstanding_tokens for replica in cluster.replicas.values())


def test_wait_for_one_replica_is_that_of_an_m_d_1_queue() -> None:
    # One input a batch: a queue with Poisson arrivals and a fixed time of service, in order of arrival. Mean wait by
    # Pollaczek and Khinchine: load * service / (2 * (1 - load)).
    service, load = 0.01, 0.6
    device = Device("one", service - 10 / 1e6, 1e6, "made up", max_inputs=1)
    one = Layout(device, 1, costs=NOTHING, wire=AT_ONCE, gateway_view=tokens_view(1_000_000), chunk_inputs=1)
    cluster = Cluster(one, [Traffic("query", load / service)], 0, warm=10.0)
    cluster.run(300.0)
    latencies = cluster.latencies["query"]
    expected = service + load * service / (2 * (1 - load))
    assert sum(latencies) / len(latencies) == pytest.approx(expected, rel=0.07)
    assert result(cluster)["replica_utilization"]["mean"] == pytest.approx(load, rel=0.03)


def test_utilisation_is_the_work_that_was_done() -> None:
    cluster = Cluster(layout(3), [Traffic("bulk", 60.0, 64, 64, 64)], 0)
    cluster.run(30.0, drain=True)
    replicas = cluster.replicas.values()
    assert sum(replica.rate.total for replica in replicas) == cluster.answered["bulk"] * 64
    # A batch takes 4 ms beside its tokens, and there are as many batches as chunks at most.
    work = cluster.answered["bulk"] * 64 / DEVICE.tokens_per_second
    chunks = sum(gateway.chunks for gateway in cluster.gateways)
    assert work < sum(replica.busy_seconds for replica in replicas) <= work + chunks * DEVICE.batch_seconds + 1e-9


def test_a_gateway_does_what_its_costs_allow_and_no_more() -> None:
    costs = GatewayCosts(1e-3, 0.0, 0.0, 0.0, 0.0, "made up")

    def answered(offered: float) -> tuple[float, float]:
        cluster = Cluster(layout(64, costs=costs), [Traffic("query", offered)], 0, warm=2.0)
        cluster.run(8.0)
        found = result(cluster)
        return found["inputs_per_second"], found["gateway_utilization"]["mean"]

    assert answered(900.0) == (pytest.approx(900.0, rel=0.05), pytest.approx(0.9, rel=0.05))
    rate, utilization = answered(1500.0)
    assert 500.0 < rate < 1010.0 and utilization == pytest.approx(1.0, abs=0.05)


def test_choosing_costs_by_the_replica() -> None:
    def busy(replicas: int) -> float:
        costs = GatewayCosts(0.0, 0.0, 0.0, 0.0, 1e-6, "made up")
        cluster = Cluster(layout(replicas, costs=costs), [QUERIES], 0)
        cluster.run(5.0, drain=True)
        gateway = cluster.gateways[0]
        assert gateway.busy_seconds == pytest.approx(gateway.chunks * replicas * 1e-6)
        return gateway.busy_seconds

    assert busy(100) > 5 * busy(10)


def test_haproxy_takes_the_gateway_with_the_fewest_requests() -> None:
    proxy = Proxy(3, 1)
    assert [proxy.choose() for _ in range(4)] == [0, 1, 2, 0]
    proxy.closed(2)
    proxy.closed(2)
    assert proxy.choose() == 2


def test_bundles_fit_into_chunks_and_keep_their_inputs_lane() -> None:
    request = Request(0, 600, 60, 0.0)
    lane = QueuePolicy().lane(60, Priority.BULK)
    bundles = [*cut(request, lane, 0.0, 16_384, 256)]
    assert [bundle.inputs for bundle in bundles] == [256, 256, 88]
    assert request.left == 3
    assert within(bundles, 256) == 1 and within(bundles[1:], 344) == 2
    queue: InputQueue[Bundle] = InputQueue(BundlePolicy())
    for bundle in bundles:
        queue.push(bundle)
    assert (queue.leader(), queue.tokens) == (lane, 36_000)


def test_least_tokens_spares_queries_the_documents_as_nothing_blind_does() -> None:
    def p99(policy: str) -> float:
        view = ROUTING[policy](2)
        traffic = [Traffic("query", 100.0, 1, 10, 40), Traffic("document", 28.0, 1, 8192, 8192)]
        cluster = Cluster(layout(8, costs=NOTHING, gateway_view=view), traffic, 5, warm=2.0)
        cluster.run(16.0)
        return float(result(cluster)["latency_ms"]["query"]["p99"])

    ours = p99("least tokens (ours)")
    assert ours < 0.6 * p99("random") and ours < 0.6 * p99("round robin")
    assert ours < p99("power of two requests")


def test_subsets_load_every_replica_alike_and_cover_all() -> None:
    names = [f"r{i}" for i in range(100)]
    subsets = [subset(names, i, 8, 25) for i in range(8)]
    counts = [sum(name in each for each in subsets) for name in names]
    assert all(len(set(each)) == 25 for each in subsets)
    assert {1, 2, 3} >= set(counts) and sum(counts) == 200
    assert subset(names, 3, 8, 500) == sorted(names)


def test_a_retired_replica_takes_no_more_and_finishes() -> None:
    cluster = Cluster(layout(3), [BULK], 0)
    cluster.run(2.0)
    cluster.retire_replicas(2)
    chunks = [replica.chunks for replica in cluster.retired]
    cluster.run(2.0, drain=True)
    assert sum(chunks) > 0 and not any(replica.chunks for replica in cluster.retired)
    assert cluster.sent == cluster.answered


def test_overload_is_refused_in_time_and_the_devices_stay_full() -> None:
    capacity = 2 * DEVICE.full_rate(64) / 64
    cluster = Cluster(layout(2, gateways=4), [Traffic("bulk", 5 * capacity, 64, 64, 64)], 0, warm=10.0)
    admit(cluster, AdmissionSettings(max_wait_seconds=2.0))
    cluster.run(30.0)
    found = result(cluster)
    # What isn't refused is never more than a few seconds of work; without a bound it would be two minutes of it by now.
    assert found["inputs_refused"] > 3 * found["inputs_answered"]
    assert found["inputs_left"] < 6 * capacity * 64
    assert found["latency_ms"]["bulk"]["p99"] < 1e3 * 6.0
    assert found["replica_utilization"]["mean"] > 0.9
    assert found["refusal_ms"]["p99"] < 100


def test_autoscaling_follows_a_step_with_the_services_own_decision() -> None:
    one = 0.8 * DEVICE.full_rate(64) / 64
    traffic = Traffic("bulk", lambda t: one * (4 if t >= 30 else 1), 64, 64, 64)
    cluster = Cluster(layout(1, gateways=2), [traffic], 0)
    admit(cluster)
    scaler = Autoscaler(cluster, parameters(), Timing(startup=5.0))
    cluster.run(180.0)
    scaler.settle()
    first = next(time for time, wanted in scaler.history if wanted > 1)
    assert 30.0 < first <= 36.0
    assert 4 <= scaler.target <= 5 and len(cluster.replicas) == scaler.target
    assert direction_changes(scaler.history) == 0
    # Never fewer than paid for: one throughout, and the others from the decision on.
    changes = [*scaler.history, (180.0, scaler.target)]
    assert scaler.replica_seconds == pytest.approx(sum(n * (b - a) for (a, n), (b, _) in pairwise(changes)), abs=0.1)


def test_oracle_pays_for_its_starts_and_for_whole_replicas() -> None:
    assert oracle_seconds([100.0] * 60, 100.0, 10) == 60
    assert oracle_seconds([0.0] * 20 + [101.0] * 20 + [0.0] * 20, 100.0, 10) == 20 + 40 + 20 + 10


def test_direction_changes() -> None:
    assert direction_changes([(0, 1), (1, 4), (2, 8), (3, 8)]) == 0
    assert direction_changes([(0, 1), (1, 8), (2, 7), (3, 7), (4, 8)]) == 2


def test_a_day_has_its_night_and_its_peak() -> None:
    loads = day_load(0, 8640, 10.0)
    assert len(loads) == 8640 and min(loads) > 0
    night, day = loads[: 8640 // 6], loads[8640 // 2 : 8640 * 3 // 4]
    assert max(night) < 0.4 * max(day) and max(day) == pytest.approx(10.0, rel=0.25)
    assert loads == day_load(0, 8640, 10.0) != day_load(1, 8640, 10.0)


def test_prediction_has_the_rate_offered_and_latency_grows_with_load() -> None:
    device = EMULATED["100 inputs/s"]
    capacity = 2 * device.full_rate(10)
    low, high = (predict_one(device, share * capacity, 0, 60.0) for share in (0.3, 0.9))
    assert low["inputs_per_second"] == pytest.approx(0.3 * capacity, rel=0.05)
    assert high["inputs_per_second"] == pytest.approx(0.9 * capacity, rel=0.05)
    # A lone input takes a batch of one; near the limit, batches are nearly full.
    assert device.seconds(10, 1) * 1e3 < low["p50_ms"] < 3e3 * device.seconds(10, 1)
    assert high["p50_ms"] > 3 * low["p50_ms"] and high["p99_ms"] > high["p50_ms"]


def test_command_line_writes_a_report(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    import orjson

    out = Path(str(tmp_path)) / "report.json"
    quick = {"gateway": (lambda seed: simulate.gateway_limit(seed, 0.5), simulate.SCENARIOS["gateway"][1])}
    monkeypatch.setattr(simulate, "SCENARIOS", quick)
    monkeypatch.setattr("sys.argv", ["simulate", "--scenario", "gateway", "--seed", "7", "--out", str(out)])
    simulate.main()
    report = orjson.loads(out.read_bytes())
    assert report["seed"] == 7 and len(report["scenarios"]["gateway"]["rows"]) == 4
    assert all(math.isfinite(row["inputs_per_second"]) for row in report["scenarios"]["gateway"]["rows"])


def test_a_fading_guess_at_unheard_replicas_spares_queries_when_gateways_are_many() -> None:
    def p99(policy: str) -> float:
        traffic = [Traffic("query", 200.0, 1, 10, 40), Traffic("document", 56.0, 1, 8192, 8192)]
        crowd = layout(16, costs=NOTHING, gateways=16, gateway_view=ROUTING[policy](2))
        cluster = Cluster(crowd, traffic, 0, warm=2.0)
        cluster.run(8.0)
        return float(result(cluster)["latency_ms"]["document"]["p99"])

    assert p99("least tokens (ours)") < 0.9 * p99("least tokens, as last heard")
    assert p99("least tokens, true") < p99("least tokens (ours)")
