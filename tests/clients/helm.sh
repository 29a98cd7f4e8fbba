#!/usr/bin/env bash
# Helm pulls a chart, which a registry with Debian's program holds; what it prints for an error it prints for any name.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2034 # lib.sh reads them
client=helm longest=20
export HELM_CACHE_HOME=$WORK/helm-cache HELM_CONFIG_HOME=$WORK/helm-config HELM_DATA_HOME=$WORK/helm-data
helm() { "$GO_CLIENTS/helm" "$@"; }

chart() { helm pull --plain-http --destination "$WORK" --version 0.1.0 "oci://$MIRROR/debian.test/charts/demo"; }

# The images of the hub stand for charts: what fails, fails before Helm sees what they are.
image() { helm pull --plain-http --destination "$WORK" --version 1.0.0 "oci://$MIRROR/$1"; }

manifests() { grep -c '"GET /v2/charts/demo/manifests/' "$WORK/debian.log" || true; }

(cd "$WORK" && helm create demo >/dev/null && helm package demo >/dev/null)
helm push --plain-http "$WORK/demo-0.1.0.tgz" "oci://$DEBIAN/charts" >/dev/null 2>&1

rm -rf "$WORK/mirror"
reset_hub
start_mirror
: >"$WORK/debian.log"
works "a cold pull" chart
equal "cold: manifest GETs at its registry" 1 "$(manifests)"
works "a warm pull" chart
equal "warm: manifest GETs at its registry" 1 "$(manifests)"

restart_mirror 0s
golden missing image library/nosuch
golden push helm push --plain-http "$WORK/demo-0.1.0.tgz" "oci://$MIRROR/library"

hub_down
golden hub-down image "$SEMVER"
hub_up

restart_mirror 0s
set_budget 0
golden out-of-budget counting image "$SEMVER"

reset_hub
restart_with_quota
curl -fs -o "$WORK/output" "http://$MIRROR/v2/$COLD/manifests/latest"
golden quota counting image "$SEMVER"
LIMITS=
restart_mirror 0s

not_mirrored "$SEMVER" image "$SEMVER"

works "a ban of this machine" "$BIN/weir" ban --config "$WORK/weir.toml" add 127.0.0.1 --force --reason "a test"
golden ban counting chart
stop_mirror
