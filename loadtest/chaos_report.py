"""What a chaos run came to: each error with the fault it belongs to, and whether the promises were kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from loadtest.chaos_clients import Client, Exchange, Outcome
from loadtest.chaos_faults import Fault, Kind
from loadtest.report import table

# The share of requests without client retry that may fail while a fault is, or while what it took is being replaced: those that
# the dead gateway was answering.
FAILURES = {Kind.GATEWAY: 0.001, Kind.NODE: 0.001}
# Of these a node's port itself is gone for a while, and its clients' errors are reported apart.
PORT_KINDS = (Kind.HAPROXY, Kind.NODE)
BACK_SECONDS = 5.0

Pair = tuple[Exchange, Fault | None]


def summarize(requests: Sequence[Exchange], attempts: Sequence[Exchange], faults: Sequence[Fault]) -> dict[str, Any]:
    """Counts of the whole run and of each kind of fault, as JSON values; seconds."""
    outcomes = Counter(each.outcome for each in requests)
    pairs = [(each, _owner(each, faults)) for each in requests]
    return {
        "sent": len(requests),
        **{outcome.value: outcomes[outcome] for outcome in Outcome},
        "clients": _clients(pairs),
        "longest_stall_seconds": _stall(pairs),
        "kinds": {kind.value: _of_kind(kind, pairs, attempts, faults) for kind in Kind},
        "errors_without_fault": _errors([pair for pair in pairs if pair[1] is None]),
    }


def service_back(fault: Fault, attempts: Sequence[Exchange]) -> float:
    """Seconds from the fault until the port with most trouble answered again; 0 if no attempt failed."""
    longest = 0.0
    for node in {each.node for each in attempts}:
        mine = [each for each in attempts if each.node == node]
        failed = [each.end for each in mine if each.outcome is not Outcome.OK and _overlaps(each, fault)]
        if failed:
            after = [each.end for each in mine if each.outcome is Outcome.OK and each.end > max(failed)]
            longest = max(longest, min(after, default=fault.end) - fault.begin)
    return longest


def broken(report: dict[str, Any]) -> list[str]:
    """The promises that weren't kept, in words, but for those that go by the clock; none if the run is a success."""
    found = []
    if report["wrong"] or report["hang"]:
        found.append(f"{report['wrong']} wrong replies and {report['hang']} hangs")
    if report["errors_without_fault"]:
        found.append(f"{sum(report['errors_without_fault'].values())} errors without a fault")
    for kind in Kind:
        of_kind = report["kinds"][kind]
        if of_kind["proven"] < max(1, of_kind["injected"]):
            found.append(f"{kind}: {of_kind['proven']} proven of {of_kind['injected']} injected")
        for client in Client:
            # A port that is gone costs its own clients what they don't wait for or take elsewhere.
            others = kind in PORT_KINDS and client is not Client.ROAMING
            counts = of_kind["clients_of_other_nodes" if others else "clients"][client]
            failed = counts["sent"] - counts["ok"]
            if failed > (allowed(kind, counts["sent"]) if client is Client.NONE else 0):
                found.append(f"{kind}: {failed} of {counts['sent']} failed ({client})")
    return found


def allowed(kind: Kind, sent: int) -> int:
    """How many requests of clients that don't retry this kind of fault may cost; one where any, as short runs send few."""
    return max(1, int(FAILURES[kind] * sent)) if kind in FAILURES else 0


def late(report: dict[str, Any]) -> list[str]:
    """The promises that go by the clock and weren't kept."""
    found = []
    for kind in PORT_KINDS:
        of_kind = report["kinds"][kind]
        slow = [seconds for seconds in of_kind["service_back_seconds"] if seconds > BACK_SECONDS]
        if slow:
            found.append(f"{kind}: service back after up to {max(slow):.1f} s, {BACK_SECONDS:g} s wanted")
    counts = report["kinds"][Kind.HAPROXY]["clients"][Client.PATIENT]
    if counts["ok"] < counts["sent"]:
        found.append(f"{Kind.HAPROXY}: {counts['sent'] - counts['ok']} of {counts['sent']} failed ({Client.PATIENT})")
    return found


def tables(report: dict[str, Any]) -> str:
    """The report in three tables: clients, faults, errors."""
    rows, errors = [], []
    for kind, of_kind in report["kinds"].items():
        failed = [counts["sent"] - counts["ok"] for counts in of_kind["clients"].values()]
        elsewhere = sum(counts["sent"] - counts["ok"] for counts in of_kind["clients_of_other_nodes"].values())
        rows.append(
            [
                kind,
                of_kind["injected"],
                sum(counts["sent"] for counts in of_kind["clients"].values()),
                *failed,
                elsewhere,
                f"{of_kind['longest_stall_seconds']:.1f}",
                *(_most(of_kind[name]) for name in ("service_back_seconds", "whole_again_seconds")),
            ]
        )
        errors += [[count, kind, what] for what, count in of_kind["errors"].items()]
    errors += [[count, "no fault", what] for what, count in report["errors_without_fault"].items()]
    columns = ["fault", "injected", "sent", *(f"errors: {client}" for client in Client), "at other nodes"]
    parts = [
        ", ".join(f"{name} {report[name]}" for name in ("sent", *Outcome)),
        table(["clients", "sent", "ok"], [[name, *counts.values()] for name, counts in report["clients"].items()]),
        table([*columns, "stall s", "back s", "whole s"], rows),
    ]
    return "\n\n".join(parts + ([table(["errors", "fault", "what"], errors)] if errors else []))


def _of_kind(kind: Kind, pairs: list[Pair], attempts: Sequence[Exchange], faults: Sequence[Fault]) -> dict[str, Any]:
    mine = [fault for fault in faults if fault.kind is kind]
    during = [pair for pair in pairs if pair[1] is not None and pair[1].kind is kind]
    return {
        "injected": len(mine),
        "proven": sum(fault.proven for fault in mine),
        "clients": _clients(during),
        "clients_of_other_nodes": _clients([(each, f) for each, f in during if f is not None and each.node != f.node]),
        "longest_stall_seconds": _stall(during),
        "service_back_seconds": [service_back(fault, attempts) for fault in mine],
        "whole_again_seconds": [fault.end - fault.begin for fault in mine],
        "faults": [{"node": fault.node, "pids": fault.pids, **fault.notes} for fault in mine],
        "errors": _errors(during),
    }


def _owner(exchange: Exchange, faults: Sequence[Fault]) -> Fault | None:
    return next((fault for fault in faults if _overlaps(exchange, fault)), None)


def _overlaps(exchange: Exchange, fault: Fault) -> bool:
    return exchange.begin < fault.end and exchange.end > fault.begin


def _clients(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    sent = Counter(each.client for each, _ in pairs)
    ok = Counter(each.client for each, _ in pairs if each.outcome is Outcome.OK)
    return {client.value: {"sent": sent[client], "ok": ok[client]} for client in Client}


def _stall(pairs: Sequence[Pair]) -> float:
    return max((each.end - each.begin for each, _ in pairs), default=0.0)


def _errors(pairs: Sequence[Pair]) -> dict[str, int]:
    """How often each error was met, by whom, most frequent first."""
    found: Counter[str] = Counter()
    for each, fault in pairs:
        if each.outcome is not Outcome.OK:
            where = "" if fault is None else " at that node" if each.node == fault.node else " at another node"
            found[f"{each.outcome}, {each.client}{where}: {each.detail}"] += 1
    return dict(found.most_common())


def _most(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f}" if seconds else "-"
