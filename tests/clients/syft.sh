#!/usr/bin/env bash
# syft, a scanner by go-containerregistry: it reads every layer of an image and says what is in it. The name says which upstream is meant.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=syft longest=20
export SYFT_REGISTRY_INSECURE_USE_HTTP=true SYFT_CHECK_FOR_APP_UPDATE=false SYFT_CACHE_DIR=$WORK/syft-cache

scan() { "$GO_CLIENTS/syft" scan --platform linux/amd64 --output syft-json "registry:$MIRROR/$1" >"$WORK/syft.json"; }

pull() { scan "$1"; }

forget() { rm -rf "$WORK/syft-cache"; }

pull_debian() { scan debian.test/debian/busybox:latest; }

use_debian() { jq -r '"NAME=\"\(.distro.name)\""' "$WORK/syft.json"; }

scenario
