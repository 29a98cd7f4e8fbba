#!/usr/bin/env bash
# BuildKit: a build whose first line names the image, through the mirrors of buildkitd.toml. It asks Docker Hub by itself when the
# mirror answers an error, and prints what the mirror said.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=buildkit longest=20
PATH=$GO_CLIENTS:$PATH
export BUILDKIT_HOST=unix:///run/buildkit.sock

# build FROM OUTPUT…: the context is empty; the cache is not asked.
build() {
    local from=$1
    shift
    mkdir -p "$WORK/context"
    echo "FROM $from" >"$WORK/context/Dockerfile"
    buildctl build --progress plain --no-cache --frontend dockerfile.v0 --local "context=$WORK/context" \
        --local "dockerfile=$WORK/context" "$@"
}

pull() { build "docker.io/$1" --output "type=oci,dest=$WORK/buildkit.tar"; }

forget() { buildctl prune --all >"$WORK/output"; }

push() { build "docker.io/$IMAGE:latest" --output "type=image,name=$MIRROR/library/mine:latest,push=true"; }

pull_debian() { build debian.test/debian/busybox:latest --output "type=oci,dest=$WORK/buildkit.tar"; }

use_debian() {
    build debian.test/debian/busybox:latest --output "type=tar,dest=$WORK/busybox.tar" >/dev/null 2>&1
    tar -xOf "$WORK/busybox.tar" usr/lib/os-release
}

# The steps of a build, of which only the error differs between two answers of the mirror.
log_of() { "$@" 2>&1 | { grep -E '^(error|#[0-9]+ ERROR|ERROR)' || true; } && return "${PIPESTATUS[0]}"; }

client_config buildkit >"$WORK/buildkitd.toml"
buildkitd --config "$WORK/buildkitd.toml" --root "$WORK/buildkit" --addr "$BUILDKIT_HOST" --containerd-worker=false \
    --oci-worker-snapshotter native >"$WORK/buildkitd.log" 2>&1 &
daemon=$!
wait_until buildctl debug workers
scenario
kill "$daemon"
wait "$daemon" || true
