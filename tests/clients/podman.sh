#!/usr/bin/env bash
# Debian's podman, through registries.conf. `location` names the mirror, which closes the side door to Docker Hub.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=podman longest=20
export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf
client_config podman >"$CONTAINERS_REGISTRIES_CONF"

podman() {
    command podman --root "$WORK/podman" --runroot /run/podman --storage-driver vfs --cgroup-manager cgroupfs --runtime runc \
        --events-backend none "$@"
}

pull() { podman pull "docker.io/$1"; }

forget() { podman rmi --all --force >"$WORK/output"; }

# podman never pushes by way of registries.conf, so the name says where.
push() { podman push --tls-verify=false "docker.io/$IMAGE:latest" "$MIRROR/library/mine:latest"; }

pull_debian() { podman pull debian.test/debian/busybox:latest; }

# The limits that podman would set are above what a sandbox may allow.
use_debian() {
    podman run --rm --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 debian.test/debian/busybox:latest \
        cat /etc/os-release
}

scenario
