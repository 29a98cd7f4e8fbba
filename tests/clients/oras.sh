#!/usr/bin/env bash
# oras, for artifacts of any kind. The name says which upstream is meant.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=oras longest=20
oras() { "$GO_CLIENTS/oras" "$@"; }

pull() { oras copy --no-tty --from-plain-http --platform linux/amd64 "$MIRROR/$1" --to-oci-layout "$WORK/oras:latest"; }

pull_with_warnings() { pull "$1"; }

forget() { rm -rf "$WORK/oras"; }

push() { oras copy --no-tty --from-oci-layout "$WORK/debian-image:latest" --to-plain-http "$MIRROR/library/mine:latest"; }

pull_debian() { pull debian.test/debian/busybox:latest; }

use_debian() {
    local layer
    layer=$(oras manifest fetch --oci-layout "$WORK/oras:latest" | jq -r '.layers[0].digest')
    tar -xzOf "$WORK/oras/blobs/${layer/:/\/}" ./usr/lib/os-release
}

scenario
