#!/usr/bin/env bash
# Debian's containerd, through `ctr` with a hosts directory. `server` names the mirror, which closes the side door: an error
# of the mirror is final, and nothing is asked of Docker Hub.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads it
client=containerd
export CONTAINERD_ADDRESS=/run/ctr.sock

start_daemon() {
    cat >"$WORK/containerd.toml" <<TOML
version = 2
root = "$WORK/containerd"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$CONTAINERD_ADDRESS"
TOML
    # One hosts.toml for each registry, each under its own comment. With them `ctr` sends ns=docker.io and ns=debian.test: by
    # that alone Weir knows whose image is meant.
    mkdir -p "$WORK"/hosts.d/{docker.io,debian.test} "$WORK/push.d/docker.io"
    client_config containerd | awk -v top="$WORK/hosts.d" '
        match($0, "^# /etc/containerd/certs.d/.*/hosts.toml") { file = top "/" substr($2, 25) }
        file { print > file }'
    # They say that nothing is pushed this way; here it is tried all the same.
    sed 's/"resolve"/&, "push"/' "$WORK/hosts.d/docker.io/hosts.toml" >"$WORK/push.d/docker.io/hosts.toml"
    containerd --config "$WORK/containerd.toml" >"$WORK/containerd.log" 2>&1 &
    daemon=$!
    wait_until ctr version
}

pull() { ctr images pull --hosts-dir "$WORK/hosts.d" "docker.io/$1"; }

forget() { ctr images list --quiet | xargs --no-run-if-empty ctr images remove --sync >"$WORK/output"; }

push() { ctr images push --platform linux/amd64 --hosts-dir "$WORK/push.d" docker.io/library/mine:latest "docker.io/$IMAGE:latest"; }

pull_debian() { ctr images pull --hosts-dir "$WORK/hosts.d" debian.test/debian/busybox:latest; }

use_debian() { ctr run --rm debian.test/debian/busybox:latest weir-client-test cat /etc/os-release; }

start_daemon
scenario
kill "$daemon"
wait "$daemon" || true
