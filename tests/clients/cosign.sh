#!/usr/bin/env bash
# cosign: saves an image with what is attached to it, by way of the mirror; and signs, verifies, attests and attaches in a namespace
# that lives in Weir, by tags and by referrers. No transparency log: nothing but loopback is reached.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# Both platforms, with all that belongs to them; one layer of the Debian image is in both of its platforms. Of its registry, which
# counts no pulls, the tags of signatures that a HEAD calls absent are asked for by GET.
# shellcheck disable=SC2034 # lib.sh reads them
client=cosign longest=20 manifests=3 blobs=8 debian_manifests=7 debian_blobs=5
export COSIGN_PASSWORD=weir COSIGN_EXPERIMENTAL=1 DOCKER_CONFIG=$WORK/cosign-login TUF_ROOT=$WORK/tuf
cosign() { "$GO_CLIENTS/cosign" "$@"; }

pull() { rm -rf "$WORK/cosign" && cosign save --allow-http-registry --dir "$WORK/cosign" "$MIRROR/$1"; }

forget() { rm -rf "$WORK/cosign"; }

push() { cosign copy --allow-http-registry "$MIRROR/$IMAGE:latest" "$MIRROR/library/mine:latest"; }

pull_debian() { pull debian.test/debian/busybox:latest; }

use_debian() {
    local manifest layer
    manifest=$(jq -r '.manifests[0].digest' "$WORK/cosign/index.json")
    manifest=$(jq -r '.manifests[0].digest' "$WORK/cosign/blobs/${manifest/:/\/}")
    layer=$(jq -r '.layers[0].digest' "$WORK/cosign/blobs/${manifest/:/\/}")
    tar -xzOf "$WORK/cosign/blobs/${layer/:/\/}" ./usr/lib/os-release
}

scenario

# --- signatures, attestations and attachments, hosted
start_hosting

skopeo copy --quiet --all --dest-tls-verify=false --dest-creds "$user:$password" "oci:$WORK/debian-image:latest" \
    "docker://$HERE/local/signed:1"
image=$HERE/local/signed@$(jq -r '.manifests[0].digest' "$WORK/debian-image/index.json")
(cd "$WORK" && cosign generate-key-pair >"$WORK/output" 2>&1)
sign=(sign --yes --key "$WORK/cosign.key" --tlog-upload=false --allow-http-registry)
verify=(--key "$WORK/cosign.pub" --insecure-ignore-tlog --allow-http-registry)
equal "cosign signs nothing without a login" refused "$(refused cosign "${sign[@]}" "$image")"
works "cosign login" cosign login --username "$user" --password-stdin "$HERE" <<<"$password"
equal "nothing is signed yet" refused "$(refused cosign verify "${verify[@]}" "$image")"
works "cosign sign, by a tag" cosign "${sign[@]}" "$image"
works "cosign verify" cosign verify "${verify[@]}" "$image"
works "cosign sign, by the referrers API" cosign "${sign[@]}" --registry-referrers-mode=oci-1-1 "$image"
works "cosign verify, by the referrers API" cosign verify "${verify[@]}" --experimental-oci11 "$image"
echo '{"a": 1}' >"$WORK/predicate.json"
works "cosign attest" cosign attest --yes --key "$WORK/cosign.key" --tlog-upload=false --allow-http-registry --type custom \
    --predicate "$WORK/predicate.json" "$image"
works "cosign verify-attestation" cosign verify-attestation "${verify[@]}" --type custom "$image"
echo '{"spdxVersion": "SPDX-2.3"}' >"$WORK/sbom.json"
works "cosign attach sbom" cosign attach sbom --allow-http-registry --sbom "$WORK/sbom.json" "$image"
works "cosign download sbom" cosign download sbom --allow-http-registry "$image"
works "cosign tree" cosign tree --allow-http-registry "$image"
works "cosign copies the image with its signatures" cosign copy --allow-http-registry "$image" "$HERE/local/copied:1"
works "the copy verifies" cosign verify "${verify[@]}" "$HERE/local/copied:1"
works "cosign clean" cosign clean --force --allow-http-registry --type signature "$HERE/local/copied:1"
equal "the copy is not signed any more" refused "$(refused cosign verify "${verify[@]}" "$HERE/local/copied:1")"
stop_mirror
