#!/usr/bin/env bash
# Debian's docker, podman, skopeo and containerd push to a namespace that lives here, and pull it again: images, an index, a
# whole repository by `skopeo sync` both ways, an artifact with a subject, a signature by referrers and by tag, and a layer of 5 GiB.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads it
client=hosted
export DOCKER_HOST=unix:///run/docker-push.sock DOCKER_CONFIG=$WORK/docker-login REGISTRY_AUTH_FILE=$WORK/podman-login.json
export CONTAINERD_ADDRESS=/run/ctr-push.sock
docker=/usr/bin/docker
big=$((5 << 30))

start_daemons() {
    dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker-push" --exec-root /run/docker-push --pidfile /run/docker-push.pid \
        --bridge none --iptables=false --storage-driver overlay2 >"$WORK/docker-push.log" 2>&1 &
    dockerd=$!
    printf 'version = 2\nroot = "%s"\nstate = "/run/ctr-push-state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
        "$WORK/ctr-push" "$CONTAINERD_ADDRESS" >"$WORK/ctr-push.toml"
    containerd --config "$WORK/ctr-push.toml" >"$WORK/ctr-push.log" 2>&1 &
    containerd=$!
    wait_until "$docker" info
    wait_until ctr version
}

podman() {
    command podman --root "$WORK/podman-push" --runroot /run/podman-push --storage-driver vfs --cgroup-manager cgroupfs --runtime runc \
        --events-backend none "$@"
}

# ask METHOD PATH [CURL…]: as the account; prints the body.
ask() {
    local method=$1 path=$2
    shift 2
    curl -fsS --user "$user:$password" -X "$method" "$@" "http://$HERE/v2/$path"
}

digest_of() { ask GET "$1/manifests/$2" -o /dev/null -D - -H 'Accept: */*' | sed -n 's/^docker-content-digest: //Ip' | tr -d '\r'; }

# As small an artifact as cosign or notation make one: an empty config, one layer, and what it is about.
put_artifact() { # REPOSITORY REFERENCE SUBJECT-DIGEST
    local digest config
    printf '{}' >"$WORK/empty"
    digest=sha256:$(sha256sum "$WORK/empty" | cut -d' ' -f1)
    ask POST "$1/blobs/uploads/?digest=$digest" --data-binary "@$WORK/empty" -H 'Content-Type: application/octet-stream' -o /dev/null
    config=$(jq -cn --arg digest "$digest" '{mediaType: "application/vnd.oci.empty.v1+json", digest: $digest, size: 2}')
    jq -cn --argjson config "$config" --arg subject "$3" --argjson size "$(ask GET "$1/manifests/$3" -H 'Accept: */*' | wc -c)" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", artifactType: "application/vnd.example.signature",
        config: $config, layers: [$config],
        subject: {mediaType: "application/vnd.oci.image.index.v1+json", digest: $subject, size: $size}
    }' >"$WORK/artifact"
    ask PUT "$1/manifests/$2" --data-binary "@$WORK/artifact" -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' -o /dev/null -D - |
        sed -n 's/^oci-subject: //Ip' | tr -d '\r'
}

# A layer of 5 GiB that takes no room: one file of zeros in a tar, both sparse.
big_image() { # LAYOUT
    local blobs=$1/blobs/sha256 layer config manifest
    mkdir -p "$blobs"
    truncate -s "$big" "$WORK/zeros"
    tar --create --file - --format gnu --owner 0 --group 0 --mtime @0 --directory "$WORK" zeros | dd of="$WORK/layer" bs=1M conv=sparse status=none
    truncate -s %512 "$WORK/layer"
    layer=$(sha256sum "$WORK/layer" | cut -d' ' -f1)
    local size
    size=$(stat -c %s "$WORK/layer")
    mv "$WORK/layer" "$blobs/$layer"
    jq -cjn --arg id "sha256:$layer" '{architecture: "amd64", os: "linux", rootfs: {type: "layers", diff_ids: [$id]}}' >"$WORK/config"
    config=$(sha256sum "$WORK/config" | cut -d' ' -f1)
    jq -cjn --arg config "sha256:$config" --argjson csize "$(stat -c %s "$WORK/config")" --arg layer "sha256:$layer" --argjson size "$size" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $csize},
        layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $size}]
    }' >"$WORK/manifest"
    mv "$WORK/config" "$blobs/$config"
    manifest=$(sha256sum "$WORK/manifest" | cut -d' ' -f1)
    jq -cn --arg digest "sha256:$manifest" --argjson size "$(stat -c %s "$WORK/manifest")" '{schemaVersion: 2, manifests: [{
        mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size,
        annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$1/index.json"
    mv "$WORK/manifest" "$blobs/$manifest"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$1/oci-layout"
}

reset_hub
capacity=16GiB start_hosting
start_daemons

# --- docker
works "docker login" "$docker" login --username "$user" --password-stdin "$HERE" <<<"$password"
equal "docker login with another password" refused "$("$docker" login --username "$user" --password wrong "$HERE" >/dev/null 2>&1 && echo taken || echo refused)"
works "docker login once more" "$docker" login --username "$user" --password-stdin "$HERE" <<<"$password"
works "docker pulls what is mirrored" "$docker" pull "$MIRROR/$IMAGE:latest"
"$docker" tag "$MIRROR/$IMAGE:latest" "$HERE/local/docker:1"
works "docker push" "$docker" push "$HERE/local/docker:1"
before=$("$docker" inspect --format '{{.Id}}' "$HERE/local/docker:1")
"$docker" rmi --force "$before" >/dev/null
works "docker pulls what it pushed" "$docker" pull "$HERE/local/docker:1"
equal "docker has the same image again" "$before" "$("$docker" inspect --format '{{.Id}}' "$HERE/local/docker:1")"

# --- skopeo: an index with its children
works "skopeo login" skopeo login --tls-verify=false --username "$user" --password-stdin "$HERE" <<<"$password"
index=$(jq -r '.manifests[0].digest' "$WORK/debian-image/index.json")
works "skopeo pushes an index" skopeo copy --all --dest-tls-verify=false "oci:$WORK/debian-image:latest" "docker://$HERE/local/debian:1"
equal "the index is what it was, to the byte" "$index" "$(digest_of local/debian 1)"
works "skopeo pulls it again" skopeo copy --all --src-tls-verify=false "docker://$HERE/local/debian:1" "oci:$WORK/again:latest"
equal "skopeo has the same index again" "$index" "$(jq -r '.manifests[0].digest' "$WORK/again/index.json")"

# --- podman
works "podman login" podman login --tls-verify=false --username "$user" --password-stdin "$HERE" <<<"$password"
works "podman pulls a child of it" podman pull --tls-verify=false "$HERE/local/debian:1"
works "podman push" podman push --tls-verify=false "$HERE/local/debian:1" "$HERE/local/podman:1"
podman rmi --all --force >/dev/null
works "podman pulls what it pushed" podman pull --tls-verify=false "$HERE/local/podman:1"

# --- containerd
works "ctr pulls the index" ctr images pull --plain-http --all-platforms --user "$user:$password" "$HERE/local/debian:1"
ctr images tag "$HERE/local/debian:1" "$HERE/local/ctr:1" >/dev/null
works "ctr push" ctr images push --plain-http --user "$user:$password" "$HERE/local/ctr:1"
equal "ctr pushed the same index" "$index" "$(digest_of local/ctr 1)"

# --- whole repositories
works "skopeo sync from here" skopeo sync --all --src docker --dest dir --src-tls-verify=false "$HERE/local/debian" "$WORK/synced"
works "skopeo sync to here" skopeo sync --all --src dir --dest docker --dest-tls-verify=false "$WORK/synced" "$HERE/local/synced"
equal "what went both ways is the same" "$index" "$(digest_of local/synced/debian 1)"

# --- what belongs to an image
equal "an artifact's subject is acknowledged" "$index" "$(put_artifact local/debian sig-by-referrers "$index")"
equal "it is among the referrers" application/vnd.example.signature \
    "$(ask GET "local/debian/referrers/$index" | jq -r '.manifests[0].artifactType')"
put_artifact local/debian "${index/:/-}.sig" "$index" >/dev/null
works "a signature by tag is found by its tag" ask GET "local/debian/manifests/${index/:/-}.sig" -H 'Accept: */*'
equal "nobody writes without a login" 401 "$(curl -s -o /dev/null -w '%{http_code}' -X POST "http://$HERE/v2/local/debian/blobs/uploads/")"

# --- five gibibytes
big_image "$WORK/big"
layer=$(jq -r '.manifests[0].digest' "$WORK/big/index.json")
# Otherwise skopeo would compress it, and push five mebibytes.
works "skopeo pushes a layer of 5 GiB" skopeo copy --preserve-digests --dest-tls-verify=false "oci:$WORK/big:latest" "docker://$HERE/local/big:1"
equal "its manifest is here" "$layer" "$(digest_of local/big 1)"
blob=$(ask GET local/big/manifests/1 -H 'Accept: */*' | jq -r '.layers[0].digest')
rm -rf "$WORK/big"
equal "and comes back whole" "${blob#sha256:}" "$(ask GET "local/big/blobs/$blob" | sha256sum | cut -d' ' -f1)"

kill "$dockerd" "$containerd"
wait "$dockerd" "$containerd" || true
stop_mirror
rm -rf "$WORK/mirror"
