#!/usr/bin/env bash
# Debian's dockerd, with Weir as its registry-mirror. When the mirror answers an error dockerd asks Docker Hub itself and
# prints what came of that; what the mirror said is in the daemon's log, so the golden files hold both.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# dockerd asks for no manifest that it had once: only what is refused by tag is refused to it.
# shellcheck disable=SC2034 # lib.sh reads them
client=docker keeps_manifests=1
export DOCKER_HOST=unix:///run/docker.sock
# Another docker may come first on the PATH; this is the one that belongs to Debian's daemon.
docker=/usr/bin/docker

start_daemon() {
    client_config docker | grep -v '^#' >"$WORK/daemon.json"
    dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker" --exec-root /run/docker --pidfile /run/docker.pid \
        --config-file "$WORK/daemon.json" --bridge none --iptables=false --storage-driver overlay2 >"$WORK/docker.log" 2>&1 &
    daemon=$!
    wait_until "$docker" info
}

pull() { "$docker" pull "${1#library/}"; }

pull_by_address() { "$docker" pull "$MIRROR/$1"; }

forget() { "$docker" images --quiet | sort -u | xargs --no-run-if-empty "$docker" rmi --force >"$WORK/output"; }

# dockerd never pushes to a mirror, so the name says where.
push() {
    "$docker" tag "${IMAGE#library/}" "$MIRROR/library/mine"
    "$docker" push "$MIRROR/library/mine"
}

pull_debian() { "$docker" pull "$MIRROR/debian.test/debian/busybox"; }

use_debian() { "$docker" run --rm --network none "$MIRROR/debian.test/debian/busybox" cat /etc/os-release; }

log_of() {
    local before status=0
    before=$(wc -l <"$WORK/docker.log")
    "$@" || status=$?
    echo "--- the daemon's log"
    tail -n "+$((before + 1))" "$WORK/docker.log" | grep -E 'Attempting next endpoint for (pull|push)|level=error' |
        sed 's/^time="[^"]*" //' | uniq || true
    return "$status"
}

start_daemon
scenario
kill "$daemon"
wait "$daemon" || true
