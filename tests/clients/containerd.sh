#!/usr/bin/env bash
# Debian's containerd (or containerd 2, see containerd2.sh), through `ctr` with a hosts directory. `server` names the mirror, which closes the side door: an error
# of the mirror is final, and nothing is asked of Docker Hub.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=${client:-containerd} longest=20 manifests=${all_manifests:-2} blobs=${all_blobs:-4}
export CONTAINERD_ADDRESS=/run/$client.sock

start_daemon() {
    cat >"$WORK/$client.toml" <<TOML
version = 2
root = "$WORK/$client"
state = "/run/$client-state"
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
    containerd --config "$WORK/$client.toml" >"$WORK/$client.log" 2>&1 &
    daemon=$!
    wait_until ctr version
}

pull() { ctr images pull --hosts-dir "$WORK/hosts.d" "docker.io/$1"; }

forget() { ctr images list --quiet | xargs --no-run-if-empty ctr images remove --sync >"$WORK/output"; }

push() { ctr images push --platform linux/amd64 --hosts-dir "$WORK/push.d" docker.io/library/mine:latest "docker.io/$IMAGE:latest"; }

pull_debian() { ctr images pull --hosts-dir "$WORK/hosts.d" debian.test/debian/busybox:latest; }

if ! declare -F use_debian >/dev/null; then
    use_debian() { ctr run --rm debian.test/debian/busybox:latest weir-client-test cat /etc/os-release; }
fi

start_daemon
scenario
kill "$daemon"
wait "$daemon" || true
