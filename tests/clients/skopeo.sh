#!/usr/bin/env bash
# Debian's skopeo, through the same registries.conf as podman. It copies images and runs none.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads it
client=skopeo
export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf
client_config podman >"$CONTAINERS_REGISTRIES_CONF"

skopeo() { command skopeo --registries-conf "$CONTAINERS_REGISTRIES_CONF" "$@"; }

pull() { skopeo copy "docker://docker.io/$1" "oci:$WORK/skopeo:latest"; }

forget() { rm -rf "$WORK/skopeo"; }

# Nor does skopeo push by way of registries.conf.
push() { skopeo copy --dest-tls-verify=false "oci:$WORK/debian-image:latest" "docker://$MIRROR/library/mine:latest"; }

pull_debian() { skopeo copy docker://debian.test/debian/busybox:latest "oci:$WORK/skopeo:latest"; }

use_debian() {
    local layer
    layer=$(skopeo inspect "oci:$WORK/skopeo:latest" | jq -r '.Layers[0]')
    tar -xzOf "$WORK/skopeo/blobs/${layer/:/\/}" ./usr/lib/os-release
}

scenario
