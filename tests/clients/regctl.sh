#!/usr/bin/env bash
# regctl of regclient. The name says which upstream is meant.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=regctl longest=20
export REGCTL_CONFIG=$WORK/regctl.json
regctl() { "$GO_CLIENTS/regctl" --verbosity error "$@"; }
regctl registry set --skip-check --tls=disabled "$MIRROR" 2>/dev/null

pull() { regctl image copy --platform linux/amd64 "$MIRROR/$1" "ocidir://$WORK/regctl:latest"; }

pull_with_warnings() { "$GO_CLIENTS/regctl" --verbosity warn image copy --platform linux/amd64 "$MIRROR/$1" "ocidir://$WORK/regctl:latest"; }

forget() { rm -rf "$WORK/regctl"; }

push() { regctl image copy "ocidir://$WORK/debian-image:latest" "$MIRROR/library/mine:latest"; }

pull_debian() { pull debian.test/debian/busybox:latest; }

use_debian() {
    regctl image get-file "ocidir://$WORK/regctl:latest" usr/lib/os-release
}

scenario
