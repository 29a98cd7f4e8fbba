#!/usr/bin/env bash
# containerd 2 as containerd.sh has containerd 1. Its `ctr` pulls by the transfer service of the daemon, which asks for the manifest and
# the config of every platform, and for the layers of one.
# shellcheck disable=SC2034 # containerd.sh and lib.sh read them
client=containerd2 all_manifests=3 all_blobs=5
PATH=$GO_CLIENTS:$PATH

# Debian's shim is too old to run it.
use_debian() {
    mkdir -p "$WORK/mounted"
    ctr images mount debian.test/debian/busybox:latest "$WORK/mounted" >"$WORK/output"
    cat "$WORK/mounted/usr/lib/os-release"
    umount "$WORK/mounted"
}
# shellcheck source=containerd.sh
source "$(dirname "$0")/containerd.sh"
