#!/usr/bin/env python3
"""What one client that floods, or one that does not read, costs ten thousand others: rounds in turn, and whether the
others' p99 with it is told from their p99 without.

    cargo build --release --workspace && scripts/one-bad-client.py [ROUNDS]

A round takes about 10 s. Where the machine is shared, its p99 is that of the machine: each round says which part of the
time the host took away (steal), and the rounds of two kinds are compared by rank (Mann-Whitney), not by their means.
"""

import json
import random
import statistics
import subprocess
import sys

LOAD = ["target/release/trunkline-loadgen", "--local", "2", "--limits", "--clients", "10000", "--rate", "5000",
        "--size", "128", "--warm-up", "2s", "--duration", "4s", "--json", "--scenario"]
SCENARIOS = ["pairs", "one-flooder", "one-stalled"]


def ticks():
    with open("/proc/stat", encoding="ascii") as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def measure(scenario):
    before = ticks()
    run = subprocess.run(LOAD + [scenario], capture_output=True, check=False, text=True)
    spent = [after - start for after, start in zip(ticks(), before)]
    report = json.loads(run.stdout)
    if run.returncode or report["violation_count"]:
        sys.exit(f"{scenario}: {report['violation_count']} violations: {report['violations']}\n{run.stderr}")
    return report["latency_us"] | {"steal": 100 * spent[7] / sum(spent)}


def exceeds(some, others):
    """The share of pairs in which one of `some` is more than one of `others`."""
    return sum((x > y) + (x == y) / 2 for x in some for y in others) / len(some) / len(others)


def chance(some, others, draws=10_000):
    """How often a mere shuffle tells the two apart as well as they are."""
    found, pool, rng = abs(exceeds(some, others) - 0.5), some + others, random.Random(1)
    hits = 0
    for _ in range(draws):
        rng.shuffle(pool)
        hits += abs(exceeds(pool[:len(some)], pool[len(some):]) - 0.5) >= found
    return hits / draws


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    results = {scenario: [] for scenario in SCENARIOS}
    for _ in range(rounds):
        for scenario in SCENARIOS:
            result = measure(scenario)
            results[scenario].append(result)
            print(f"{scenario:<12} p50 {result['p50']:>9.0f} us  p99 {result['p99']:>9.0f} us  steal {result['steal']:4.1f} %",
                  flush=True)
    without = [result["p99"] for result in results["pairs"]]
    for scenario in SCENARIOS:
        p99 = [result["p99"] for result in results[scenario]]
        medians = [statistics.median(result[key] for result in results[scenario]) for key in ("p50", "p99", "steal")]
        print(f"{scenario:<12} {rounds} rounds, medians: p50 {medians[0]:.0f} us, p99 {medians[1]:.0f} us, "
              f"steal {medians[2]:.0f} %", end="")
        more, by_chance = exceeds(p99, without), chance(p99, without)
        print("" if scenario == "pairs" else f"; p99 above that of pairs in {more:.0%} of pairs of rounds, "
              f"as far from half by chance alone: {by_chance:.0%}")


if __name__ == "__main__":
    main()
