#!/usr/bin/env python3
"""What one client that floods, or one that does not read, costs ten thousand others: rounds in turn, and whether the
others' p99 with it is told from their p99 without.

    cargo build --release --workspace && scripts/one-bad-client.py [ROUNDS]

A round takes about 10 s.
"""

import sys

from rounds import measure, summary

LOAD = ["target/release/trunkline-loadgen", "--local", "2", "--limits", "--clients", "10000", "--rate", "5000",
        "--size", "128", "--warm-up", "2s", "--duration", "4s", "--json", "--scenario"]
SCENARIOS = ["pairs", "one-flooder", "one-stalled"]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    results = {scenario: [] for scenario in SCENARIOS}
    for _ in range(rounds):
        for scenario in SCENARIOS:
            results[scenario].append(measure(scenario, LOAD + [scenario]))
    summary(results, {"one-flooder": "pairs", "one-stalled": "pairs"})


if __name__ == "__main__":
    main()
