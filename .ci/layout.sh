# shellcheck shell=bash
# An OCI image layout that is made in $work/layout. Sourced, never run. Needs GNU tar and jq.
# https://github.com/opencontainers/image-spec/blob/main/image-layout.md

# The time of what is made is that of the commit, so that it is the same when it is made again.
SOURCE_DATE_EPOCH=$(git -C "$(dirname "${BASH_SOURCE[0]}")" log -1 --format=%ct)
layout=$work/layout
mkdir -p "$layout/blobs/sha256"

# blob TYPE FILE: puts the file into the layout, and prints its descriptor.
blob() {
    local digest
    digest=$(sha256sum <"$2" | cut -d' ' -f1)
    cp "$2" "$layout/blobs/sha256/$digest"
    jq -nc --arg type "$1" --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$2")" '{mediaType: $type, digest: $digest, size: $size}'
}

archive() { tar --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --directory "$1" "${@:2}"; }

# finish DESCRIPTOR NAME FILE: the layout of this manifest under this name, as one file.
finish() {
    jq -c --arg name "$2" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: [. + {annotations: {"org.opencontainers.image.ref.name": $name}}]
    }' <<<"$1" >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    archive "$layout" --create --file "$3" --owner=0 --group=0 blobs index.json oci-layout
}
