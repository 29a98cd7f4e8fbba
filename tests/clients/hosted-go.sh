#!/usr/bin/env bash
# crane, regctl, oras and helm push to a namespace that lives in Weir, copy, attach, list and delete there, with a login.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads it
client=hosted-go
export DOCKER_CONFIG=$WORK/go-login REGCTL_CONFIG=$WORK/regctl-login.json
export HELM_CACHE_HOME=$WORK/helm-cache HELM_CONFIG_HOME=$WORK/helm-config HELM_DATA_HOME=$WORK/helm-data
PATH=$GO_CLIENTS:$PATH

start_hosting
layout=$WORK/debian-image
index=$(jq -r '.manifests[0].digest' "$layout/index.json")

# --- crane
equal "crane pushes nothing without a login" refused "$(refused crane push --insecure "$layout" "$HERE/local/crane:1")"
works "crane auth login" crane auth login --username "$user" --password-stdin "$HERE" <<<"$password"
works "crane push" crane push --insecure "$layout" "$HERE/local/crane:1"
works "crane copy to another repository" crane copy --insecure "$HERE/local/crane:1" "$HERE/local/copied:1"
works "crane tag" crane tag --insecure "$HERE/local/copied:1" 2
equal "crane ls" "1 2" "$(crane ls --insecure "$HERE/local/copied" | xargs)"
equal "the copy has the same digest" "$(crane digest --insecure "$HERE/local/crane:1")" "$(crane digest --insecure "$HERE/local/copied:2")"
works "crane validates what it copied" crane validate --insecure --remote "$HERE/local/copied:2" --platform linux/amd64
works "crane delete" crane delete --insecure "$HERE/local/copied@$(crane digest --insecure "$HERE/local/copied:2")"
equal "what crane deleted is gone" refused "$(refused crane digest --insecure "$HERE/local/copied:2")"

# --- regctl
regctl registry set --skip-check --tls=disabled "$HERE" 2>/dev/null
works "regctl registry login" regctl registry login --user "$user" --pass-stdin "$HERE" <<<"$password"
works "regctl copies a layout to here" regctl image copy "ocidir://$layout" "$HERE/local/regctl:1"
equal "the index is what it was, to the byte" "$index" "$(regctl image digest "$HERE/local/regctl:1")"
works "regctl attaches an artifact" regctl artifact put --subject "$HERE/local/regctl:1" --artifact-type application/vnd.example.note \
    <<<"a note"
equal "regctl lists it" application/vnd.example.note \
    "$(regctl artifact list "$HERE/local/regctl:1" --format '{{range .Descriptors}}{{.ArtifactType}}{{end}}')"
works "regctl copies an image with what is attached to it" regctl image copy --referrers "$HERE/local/regctl:1" "$HERE/local/regctl-copy:1"
equal "the artifact came with it" application/vnd.example.note \
    "$(regctl artifact list "$HERE/local/regctl-copy:1" --format '{{range .Descriptors}}{{.ArtifactType}}{{end}}')"
works "regctl deletes a tag" regctl tag delete "$HERE/local/regctl-copy:1"
equal "the tag is gone" refused "$(refused regctl image digest "$HERE/local/regctl-copy:1")"

# --- oras
works "oras login" oras login --plain-http --username "$user" --password-stdin "$HERE" <<<"$password"
equal "oras login with another password" refused "$(refused oras login --plain-http --username "$user" --password wrong "$HERE")"
works "oras login once more" oras login --plain-http --username "$user" --password-stdin "$HERE" <<<"$password"
echo "some text" >"$WORK/text.txt"
works "oras push" oras push --no-tty --plain-http --disable-path-validation "$HERE/local/oras:1" "$WORK/text.txt:text/plain"
works "oras attach" oras attach --no-tty --plain-http --disable-path-validation --artifact-type application/vnd.example.note \
    "$HERE/local/oras:1" "$WORK/text.txt:text/plain"
equal "oras discover" application/vnd.example.note \
    "$(oras discover --plain-http --format json "$HERE/local/oras:1" | jq -r '(.referrers // .manifests)[0].artifactType')"
works "oras copies it with what is attached" oras copy --no-tty --from-plain-http --to-plain-http --recursive "$HERE/local/oras:1" "$HERE/local/oras-copy:1"
works "oras pull" oras pull --no-tty --plain-http --allow-path-traversal --output "$WORK/oras-pulled" "$HERE/local/oras-copy:1"
works "oras manifest delete" oras manifest delete --force --plain-http "$HERE/local/oras-copy:1"
equal "what oras deleted is gone" refused "$(refused oras manifest fetch --plain-http "$HERE/local/oras-copy:1")"

# --- helm
works "helm registry login" helm registry login --plain-http --username "$user" --password-stdin "$HERE" <<<"$password"
[[ -f $WORK/demo-0.1.0.tgz ]] || (cd "$WORK" && helm create demo && helm package demo) >"$WORK/output"
works "helm push" helm push --plain-http "$WORK/demo-0.1.0.tgz" "oci://$HERE/local/charts"
mkdir "$WORK/charts"
works "helm pull" helm pull --plain-http --destination "$WORK/charts" "oci://$HERE/local/charts/demo" --version 0.1.0
works "helm shows the newest in a range" helm show chart --plain-http "oci://$HERE/local/charts/demo" --version ^0.1
stop_mirror
