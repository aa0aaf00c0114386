#!/usr/bin/env bash
# Kills the processes of a cluster again and again under load, and prints what it came to. Takes about 1.5 s a kill.
#
#   scripts/chaos.sh [KILLS] [SEED]      100 kills with seed 1 where nothing is said
set -euo pipefail
cd "$(dirname "$0")/.."

export CHAOS_KILLS="${1:-100}" CHAOS_SEED="${2:-1}"
exec cargo test --release --test e2e -- --nocapture chaos_costs_no_acknowledged_message
