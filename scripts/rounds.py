"""Measurements in turn on a machine whose speed moves: each with the part of the time that the host took away (steal), and
compared by rank (Mann-Whitney), not by their means."""

import json
import random
import statistics
import subprocess
import sys


def ticks():
    with open("/proc/stat", encoding="ascii") as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def measure(name, command):
    """Latencies of one run of the load generator, with the steal beside it. A violation ends everything."""
    before = ticks()
    run = subprocess.run(command, capture_output=True, check=False, text=True)
    spent = [after - start for after, start in zip(ticks(), before)]
    report = json.loads(run.stdout)
    if run.returncode or report["violation_count"]:
        sys.exit(f"{name}: {report['violation_count']} violations: {report['violations']}\n{run.stderr}")
    result = report["latency_us"] | {"steal": 100 * spent[7] / sum(spent)}
    print(f"{name:<16} p50 {result['p50']:>9.0f} us  p99 {result['p99']:>9.0f} us  steal {result['steal']:4.1f} %", flush=True)
    return result


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


def summary(results, beside):
    """A line for each kind of round; `beside` names the kind that each is compared with."""
    for name, rounds in results.items():
        medians = [statistics.median(result[key] for result in rounds) for key in ("p50", "p99", "steal")]
        print(f"{name:<16} {len(rounds)} rounds, medians: p50 {medians[0]:.0f} us, p99 {medians[1]:.0f} us, "
              f"steal {medians[2]:.0f} %", end="")
        if other := beside.get(name):
            p99, without = [[result["p99"] for result in results[kind]] for kind in (name, other)]
            print(f"; p99 above that of {other} in {exceeds(p99, without):.0%} of pairs of rounds, as far from half by "
                  f"chance alone: {chance(p99, without):.0%}", end="")
        print()
