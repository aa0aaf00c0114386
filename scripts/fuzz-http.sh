#!/usr/bin/env bash
# Sends the ACMS's management port what its OpenAPI document allows and forbids (schemathesis): no answer may be a 5xx, or
# another one than is described.
#
#     pip install schemathesis && cargo build --release && scripts/fuzz-http.sh [SECONDS]
#
# What takes servers and users out of the cluster comes last and alone: where there is no server to assign, that is a 503.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-120}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -r "$work"' EXIT

start() { # NAME COMMAND...: a program that says when it is ready
    "${@:2}" >"$work/$1" 2>/dev/null &
    pids+=($!)
    for _ in {1..100}; do
        grep -q . "$work/$1" && return
        sleep 0.1
    done
    echo "$1 does not start" >&2
    exit 1
}
address() { grep -o "$2=[^ ]*" "$work/$1" | cut -d= -f2; }

start acms target/release/trunkline-acms --transfer-port 0 --management-port 0 --directory-grace-ms 0
for id in 0 1; do
    start "as$id" target/release/trunkline-appserver --id "$id" --listen 127.0.0.1:0 --acms "$(address acms transfer)"
done
mkfifo "$work/keyboard"
exec 3<>"$work/keyboard"
start alice target/release/trunkline-chat --server "$(address as0 clients)" --user alice <&3

cat >"$work/schemathesis.toml" <<'TOML'
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 413, 431]

# Some of the requests are about what there is.
[[operations]]
include-path-regex = "^/v1/servers/"
parameters = { id = 1 }

[[operations]]
include-path-regex = "^/v1/users/"
parameters = { id = "alice" }
TOML

# To JSON Schema 1.0 is an integer, to the port it is none: that not all is accepted which the document allows is no fault.
fuzz() {
    local port
    port=$(address acms management)
    # It leaves files where it runs, and reads schemathesis.toml there.
    (cd "$work" && "${ST:-st}" run --no-color --max-time "$1" --exclude-checks positive_data_acceptance "${@:2}" \
        "http://$port/v1/openapi.json")
}
emptying=(--exclude-operation-id freeze --exclude-operation-id drain --exclude-operation-id remove --exclude-operation-id kick)
fuzz "$seconds" "${emptying[@]}"
fuzz "$((seconds / 4))" "${emptying[@]/exclude/include}"
