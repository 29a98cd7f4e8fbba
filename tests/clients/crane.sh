#!/usr/bin/env bash
# crane of go-containerregistry, the library of Trivy, Grype, ko and kaniko. The name says which upstream is meant.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=crane longest=20

pull() { "$GO_CLIENTS/crane" pull --insecure --platform linux/amd64 --format oci "$MIRROR/$1" "$WORK/crane"; }

pull_with_warnings() { pull "$1"; }

forget() { rm -rf "$WORK/crane"; }

push() { "$GO_CLIENTS/crane" push --insecure "$WORK/debian-image" "$MIRROR/library/mine:latest"; }

pull_debian() { "$GO_CLIENTS/crane" pull --insecure --platform linux/amd64 "$MIRROR/debian.test/debian/busybox:latest" "$WORK/crane.tar"; }

use_debian() { "$GO_CLIENTS/crane" export - - <"$WORK/crane.tar" | tar -xO usr/lib/os-release; }

scenario
