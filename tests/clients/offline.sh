#!/usr/bin/env bash
# What one Weir exported, another one without any registry imports; Debian's docker, podman, skopeo and containerd pull all of it there,
# and docker loads a docker-archive. One byte that was flipped on the way is refused and named.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads it
client=offline
export DOCKER_HOST=unix:///run/docker-offline.sock CONTAINERD_ADDRESS=/run/ctr-offline.sock
export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf
docker=/usr/bin/docker
real=debian.test/debian/busybox:latest
out=$WORK/offline

weir_cache() { "$BIN/weir" cache "$1" --config "$WORK/weir.toml" "${@:2}"; }

start_daemons() {
    client_config docker | grep -v '^#' >"$WORK/daemon.json"
    dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker-offline" --exec-root /run/docker-offline --pidfile /run/docker-offline.pid \
        --config-file "$WORK/daemon.json" --bridge none --iptables=false --storage-driver overlay2 >"$WORK/docker-offline.log" 2>&1 &
    dockerd=$!
    printf 'version = 2\nroot = "%s"\nstate = "/run/ctr-offline-state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
        "$WORK/ctr-offline" "$CONTAINERD_ADDRESS" >"$WORK/ctr-offline.toml"
    containerd --config "$WORK/ctr-offline.toml" >"$WORK/ctr-offline.log" 2>&1 &
    containerd=$!
    mkdir -p "$WORK"/offline.d/{docker.io,debian.test}
    client_config containerd | awk -v top="$WORK/offline.d" '
        match($0, "^# /etc/containerd/certs.d/.*/hosts.toml") { file = top "/" substr($2, 25) }
        file { print > file }'
    wait_until "$docker" info
    wait_until ctr version
}

podman() {
    command podman --root "$WORK/podman-offline" --runroot /run/podman-offline --storage-driver vfs --cgroup-manager cgroupfs \
        --runtime runc --events-backend none "$@"
}
skopeo() { command skopeo --registries-conf "$CONTAINERS_REGISTRIES_CONF" "$@"; }

# Flips a bit of the largest blob of a layout, and prints its digest.
flip() { # LAYOUT
    local blob byte at
    blob=$(find "$1/blobs" -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)
    at=$(($(stat -c %s "$blob") / 2))
    byte=$(od -An -tu1 -j "$at" -N 1 "$blob")
    printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$blob" bs=1 seek="$at" conv=notrunc status=none
    echo "sha256:${blob##*/}"
}

refused_and_named() { # DIGEST COMMAND…
    ! "${@:2}" >"$WORK/output" 2>&1 && grep -q "$1 does not match its digest" "$WORK/output"
}

rm -rf "$WORK/mirror" "$out"*
reset_hub
start_mirror
client_config podman >"$CONTAINERS_REGISTRIES_CONF"
for image in "docker.io/$IMAGE:latest" "$real"; do
    works "a pull of $image, to be exported" skopeo copy --all "docker://$image" "oci:$WORK/offline-first:latest"
done
works "an export to a directory" weir_cache export "docker.io/$IMAGE:latest" "$real" --output "$out" --reason "a test"
# shellcheck disable=SC2016 # bash -c expands its own arguments
works "an export to a stream" bash -c '"$0" cache export --config "$1" "$2" "$3" --output - >"$4"' \
    "$BIN/weir" "$WORK/weir.toml" "docker.io/$IMAGE:latest" "$real" "$out-stream.tar"
works "an export for docker load" weir_cache export "$real" --platform "linux/$(dpkg --print-architecture)" --format docker-archive \
    --output "$out-docker.tar"
works "skopeo reads the layout" skopeo inspect --raw "oci:$out:docker.io/$IMAGE:latest"
stop_mirror

# Nothing is left but what is carried: another data directory, and no registry that answers.
hub_down
mv "$WORK/mirror" "$WORK/mirror-first"
DEBIAN=127.0.0.1:9
start_mirror 0s
cp -r "$out" "$out-damaged"
damaged=$(flip "$out-damaged")
works "one flipped bit is refused and named" refused_and_named "$damaged" weir_cache import "$out-damaged"
works "an import of a directory" weir_cache import "$out" --reason "a test"
works "an import of a stream" weir_cache import - <"$out-stream.tar"

start_daemons
for image in "docker.io/$IMAGE:latest" "$real"; do
    works "skopeo copies all of $image" skopeo copy --all "docker://$image" "oci:$WORK/offline-second:latest"
    works "podman pulls $image" podman pull "$image"
    works "containerd pulls $image" ctr images pull --hosts-dir "$WORK/offline.d" "$image"
done
works "docker pulls docker.io/$IMAGE" "$docker" pull "${IMAGE#library/}"
works "docker pulls $real" "$docker" pull "$MIRROR/$real"
works "docker loads a docker-archive" "$docker" load --input "$out-docker.tar"
equal "docker runs what it loaded" 'NAME="Debian GNU/Linux"' "$("$docker" run --rm --network none "$real" cat /etc/os-release 2>&1 | grep -e ^NAME -e rror || true)"
kill "$dockerd" "$containerd"
wait "$dockerd" "$containerd" || true
stop_mirror
hub_up
