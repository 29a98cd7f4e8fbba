# shellcheck shell=bash
# What the client scripts share: the hub, the mirror under test, checks, golden files. Sourced, never run.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
HUB=127.0.0.1:5999
CDN=127.0.0.1:5998
CONTROL=127.0.0.1:5997
DEBIAN=127.0.0.1:5996
MIRROR=127.0.0.1:5000
# The listener on which the account of the hosted namespaces logs in.
HERE=127.0.0.1:5443
user=ci password="a password of ci's"
ADMIN=127.0.0.1:5001

# The image with which most checks are made: an index, two platforms, three layers and a config for each.
IMAGE=library/alder
# Never pulled while the hub has budget.
COLD=library/birch
# Likewise, with the one tag 1.0.0, since Helm wants semantic versions.
SEMVER=library/cedar
# A client's whole quota is one pull an hour.
QUOTA='[[throttle]]
name = "throttle_unauthenticated_pulls"
requests_per_period = 2
period_in_seconds = 7200
burst = 1'

# A script that ends early says at which command, and leaves no mirror on the port that the next script needs.
set -E
mirror=
trap 'echo "clients: $0, line $LINENO: $BASH_COMMAND" >&2' ERR
trap '[[ ! $mirror ]] || { kill "$mirror" && wait "$mirror"; } || true' EXIT

# --- checks -----------------------------------------------------------------------------------------------------------------

heading() { printf '\n== %s\n' "$*"; }

ok() { echo "ok      ${client:-}: $1" | tee -a "$WORK/results"; }

failed() { echo "FAILED  ${client:-}: $1" | tee -a "$WORK/results"; }

# equal WHAT WANTED FOUND
equal() {
    if [[ $2 == "$3" ]]; then ok "$1 ($3)"; else failed "$1: wanted $2, found $3"; fi
}

# refused COMMAND…: whether it fails.
refused() { if "$@" >"$WORK/output" 2>&1; then echo taken; else echo refused; fi; }

# works WHAT COMMAND…: the command succeeds; what it printed is shown when it does not.
works() {
    local what=$1
    shift
    if "$@" >"$WORK/output" 2>&1; then ok "$what"; else failed "$what" && sed 's/^/        | /' "$WORK/output"; fi
}

# wait_until COMMAND…: up to a minute, or twentieths of a second in $tries.
wait_until() {
    local try
    for ((try = 0; try < ${tries-1200}; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    echo "clients: gave up waiting for: $*" >&2
    return 1
}

# --- golden files -----------------------------------------------------------------------------------------------------------

# Takes from a client's output what differs between two runs: digests, times, paths, ports of the system's choice, waits,
# progress, and which of crane's parallel requests it ended with.
normalise() {
    sed -E \
        -e 's/\x1b\[[0-9;]*[A-Za-z]//g' \
        -e "s#$WORK#WORK#g" \
        -e 's/sha256:[0-9a-f]{64}/sha256:DIGEST/g' \
        -e 's/time="[^"]*"/time="TIME"/' \
        -e 's/^\[[0-9T:.-]+Z\]/[TIME]/' \
        -e 's/^time=[0-9T:.-]+Z /time=TIME /' \
        -e 's/127\.0\.0\.1:[0-9]+->/127.0.0.1:PORT->/g' \
        -e '/^[0-9a-f]{12}: /d' \
        -e '/^elapsed: /d' \
        -e 's/^\[[0-9]{4}\] *//' \
        -e '/msg="DEPRECATION: /d' \
        -e '/^[^ ]+ +\t(fetching|pushing) /d' \
        -e '/^(Pulling from|Pushing to) OCI Registry /d' \
        -e '/^application\/vnd[^ ]* sha256:/d' \
        -e 's#^[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} ##' \
        -e '/^Copying [0-9a-f]{12} /d' \
        -e 's/[[:space:]]+$//' \
        -e '/[|][-+]+[|]/d' \
        -e '/msg="active check failed" error="context canceled"/d' \
        -e '/^(Getting image source signatures|Copying (blob|config) .*)$/d' \
        -e 's/about [0-9][0-9hms ]*/about WAIT/' \
        -e 's/until ([0-9-]{10} )?[0-9]{2}:[0-9]{2}Z/until TIME/g' \
        -e 's/id [0-9a-f]{8}\b/id ID/g' \
        -e 's/"detail":"[^"]*",//' \
        -e 's/^Error: (Head|Post) "[^"]*": POST/Error: POST/'
}

# The longest that a client may take to report an error, in seconds. Its own retries decide, so a client's file may set less.
longest=120

# bounded COMMAND…: runs it, in a process group of its own, for $longest seconds at most; then its status is 124.
bounded() {
    local job watch status=0
    set -m
    ("$@") &
    job=$!
    set +m
    (sleep "$longest" && : >"$WORK/too-long" && kill -- "-$job") >/dev/null 2>&1 &
    watch=$!
    wait "$job" || status=$?
    kill "$watch" 2>/dev/null || true
    if rm "$WORK/too-long" 2>/dev/null; then status=124; fi
    return "$status"
}

# golden CASE COMMAND…: the command fails, and prints what golden/CLIENT.CASE.txt holds.
golden() {
    local case=$1 begun=$SECONDS status=0
    shift
    bounded "$@" >"$WORK/output" 2>&1 || status=$?
    case $status in
        0) failed "$case: succeeded, and should not have" && return ;;
        124) failed "$case: the client did not end in $longest s" && return ;;
    esac
    echo "        $case, after $((SECONDS - begun)) s:"
    compare "$case"
}

# compare CASE: what is in $WORK/output with the golden file of that case.
compare() {
    local case=$1 file=$here/golden/$client.$1.txt
    normalise <"$WORK/output" >"$WORK/normal"
    if [[ $MIRROR_KIND != weir ]]; then
        sed 's/^/        | /' "$WORK/normal"
    elif [[ $UPDATE ]]; then
        mkdir -p "$here/golden" && cp "$WORK/normal" "$file" && sed 's/^/        | /' "$file"
    elif diff -u "$file" "$WORK/normal"; then
        ok "$case: prints what golden/$client.$case.txt holds"
    else
        failed "$case: prints something else than golden/$client.$case.txt"
    fi
}

# --- upstream ---------------------------------------------------------------------------------------------------------------

start_hub() {
    "$BIN/weir-conformance" hub --listen "$HUB" --cdn "$CDN" --control "$CONTROL" --limit 100 \
        --image "$IMAGE:latest=1" --image "$COLD:latest=2" --image "$SEMVER:1.0.0=3" >"$WORK/hub.log" 2>&1 &
    wait_until curl -fs "http://$CONTROL/counts"
}

# control METHOD PATH [WORDS]: tells the hub something.
control() { curl -fsS -o /dev/null -X "$1" -d "${3-}" "http://$CONTROL/$2"; }

hub_down() { control POST down; }
hub_up() { control POST up; }
set_budget() { control POST budget "remaining=$1"; }
forget_requests() { control DELETE log; }

# The hub as it is at first: up, with budget, with nothing asked of it yet.
reset_hub() { hub_up && set_budget 100 && forget_requests; }

# How many requests of that kind reached the hub since forget_requests.
asked() { curl -fs "http://$CONTROL/counts" | jq -r --arg kind "$1" '.[$kind]'; }

# A registry from Debian with a real image, debian/busybox.
start_debian_registry() {
    cat >"$WORK/debian.yml" <<YAML
version: 0.1
log: {accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $WORK/debian}}
http: {addr: "$DEBIAN"}
YAML
    docker-registry serve "$WORK/debian.yml" >"$WORK/debian.log" 2>&1 &
    wait_until curl -fs "http://$DEBIAN/v2/"
    skopeo copy --quiet --all --dest-tls-verify=false "oci:$WORK/debian-image:latest" "docker://$DEBIAN/debian/busybox:latest"
}

# --- the mirror under test --------------------------------------------------------------------------------------------------

# weir_toml [TAG_TTL]: Weir's configuration.
weir_toml() {
    cat >"$WORK/weir.toml" <<TOML
[server]
listen = "$MIRROR"
[admin]
listen = "$ADMIN"
[storage]
root = "$WORK/mirror"
capacity = "${capacity-1GiB}"
# Each request is counted.
[log]
refusal_lines = 0
[mirror]
tag_ttl = "${1:-5m}"
[[upstream]]
name = "docker.io"
url = "http://$HUB"
default = true
${RULES-}
[[upstream]]
name = "debian.test"
url = "http://$DEBIAN"
${LIMITS-}
TOML
}

# client_config CLIENT: how to set that client up, in Weir's own words. A docker-registry knows no prefix.
client_config() {
    weir_toml
    "$BIN/weir" client-config --config "$WORK/weir.toml" "$1" >"$WORK/client-config"
    [[ $MIRROR_KIND == weir ]] || sed -i "s#$MIRROR/docker.io#$MIRROR#" "$WORK/client-config"
    cat "$WORK/client-config"
}

# start_mirror [TAG_TTL]: on the data directory that is there.
start_mirror() {
    case $MIRROR_KIND in
        weir)
            weir_toml "$@"
            "$BIN/weir" serve --config "$WORK/weir.toml" >>"$WORK/mirror.log" 2>&1 &
            ;;
        docker-registry)
            cat >"$WORK/mirror.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/mirror}}
http: {addr: "$MIRROR"}
proxy: {remoteurl: "http://$HUB"}
YAML
            docker-registry serve "$WORK/mirror.yml" >>"$WORK/mirror.log" 2>&1 &
            ;;
    esac
    mirror=$!
    wait_until answers_or_ended "$mirror" "http://$MIRROR/v2/"
    kill -0 "$mirror" || { cat "$WORK/mirror.log" && return 1; }
}

# restart_with_quota: one pull an hour for each client, and none of it used: a restart alone does not forget the pulls before it.
restart_with_quota() {
    LIMITS=$QUOTA
    stop_mirror
    rm "$WORK"/mirror/journals/usage*
    start_mirror 0s
}

# reload_mirror: has Weir read its configuration again, of whose tags none is fresh.
reload_mirror() {
    local before
    before=$(reloads)
    weir_toml 0s
    kill -HUP "$mirror"
    wait_until reloaded_since "$before"
}

reloads() { grep -c '"message":"reloaded"' "$WORK/mirror.log" || true; }

# reloaded_since COUNT
reloaded_since() { (($(reloads) > $1)); }

# All requests that reached the hub since forget_requests.
asked_at_all() { curl -fs "http://$CONTROL/counts" | jq add; }

# not_mirrored REPOSITORY COMMAND…: the command, which pulls from that repository of the hub, is refused by a rule that was reloaded, and by
# one that Weir was started with; the hub is asked nothing.
not_mirrored() {
    RULES="deny = [\"$1\"]"
    shift
    reload_mirror
    forget_requests
    golden denied counting "$@"
    restart_mirror 0s
    equal "denied since the start" refused "$(refused log_of "$@")"
    equal "denied: requests at the hub" 0 "$(asked_at_all)"
    RULES=
    reload_mirror
}

# cache_configs REPOSITORY: has the mirror cache the manifest and the config of every platform, so that it refuses the whole index.
cache_configs() {
    local url=http://$MIRROR/v2/$1 accept='Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json' digest
    for digest in $(curl -fs -H "$accept" "$url/manifests/latest" | jq -r '.manifests[].digest'); do
        curl -fs -o "$WORK/output" "$url/blobs/$(curl -fs -H "$accept" "$url/manifests/$digest" | jq -r .config.digest)"
    done
}

# policy MODE: no image may start as root.
policy() {
    LIMITS='[[policy]]
name = "production"
images = ["docker.io/library/*"]
non_root = true
contact = "platform@example.com"
mode = "'$1'"'
}

# held_to_policy COMMAND…: the command, which pulls an image that is cached and starts as root, is refused by a policy; the hub counts nothing.
held_to_policy() {
    policy enforce
    [[ ! ${keeps_manifests-} ]] || cache_configs "$IMAGE"
    reload_mirror
    forget_requests
    golden policy counting "$@"
    # A client that asks Docker Hub itself after a mirror's refusal prints the mirror's sentence when the mirror is in the name.
    if declare -F pull_by_address >/dev/null; then golden policy-by-address pull_by_address "$IMAGE:latest"; fi
    equal "policy: manifest GETs at the hub" 0 "$(asked manifest_get)"
    equal "policy: blob GETs at the hub" 0 "$(asked blob_get)"
    LIMITS=
    reload_mirror
}

# warned_by_policy COMMAND…: the command, which pulls the same image, works, and the client prints what the policy says of it.
warned_by_policy() {
    policy warn
    reload_mirror
    works "a pull that a policy warns of" "$@"
    # What else the client prints of a pull is its own affair.
    grep -i warning "$WORK/output" | sort -u >"$WORK/warnings"
    mv "$WORK/warnings" "$WORK/output"
    compare warning
    LIMITS=
    reload_mirror
    forget
}

# answers_or_ended PID URL
answers_or_ended() { ! kill -0 "$1" || curl -fs "$2"; }

# start_hosting: Weir without anything stored, with a namespace that lives there and an account that pushes to it.
start_hosting() {
    weir_toml
    cat >>"$WORK/weir.toml" <<TOML
[hosted]
namespaces = ["local/*"]
[[listener]]
address = "$HERE"
login = true
[[account]]
name = "$user"
password_hash = "$(printf %s "$password" | "$BIN/weir" hash-password)"
push = ["local/*"]
delete = ["local/*"]
TOML
    rm -rf "$WORK/mirror"
    "$BIN/weir" serve --config "$WORK/weir.toml" >>"$WORK/mirror.log" 2>&1 &
    mirror=$!
    wait_until answers_or_ended "$mirror" "http://$MIRROR/v2/"
}

restart_mirror() { stop_mirror && start_mirror "$@"; }

stop_mirror() {
    kill "$mirror"
    wait "$mirror" || true
    mirror=
}

# --- what every client goes through -----------------------------------------------------------------------------------------

# What a cold pull of one platform of an index asks for.
manifests=2 blobs=4

# cost MANIFESTS BLOBS TOKENS WHEN: what reached the hub since forget_requests.
cost() {
    equal "$4: manifest GETs at the hub" "$1" "$(asked manifest_get)"
    equal "$4: blob GETs at the hub" "$2" "$(asked blob_get)"
    equal "$4: tokens" "$3" "$(asked token)"
}

# A client's file defines first:
#   pull REPOSITORY:TAG     pulls that image of Docker Hub by way of the mirror
#   forget                  removes every image it has
#   push                    tries to push to a name that is mirrored; left out when the client pushes nothing
#   pull_debian             pulls the image from Debian packages, of another upstream
#   use_debian              runs it; prints its /etc/os-release
# and may define log_of COMMAND…, which runs the command and adds what a daemon of the client logged about it; pull_by_address, which
# pulls with the mirror in the image's name; and pull_with_warnings, of a client that prints a Warning header.
scenario() {
    rm -rf "$WORK/mirror"
    reset_hub
    start_mirror
    works "a cold pull" pull "$IMAGE:latest"
    cost "$manifests" "$blobs" 1 cold
    forget
    forget_requests
    works "a warm pull" pull "$IMAGE:latest"
    cost 0 0 0 warm

    # From here on no tag is fresh: each must be asked for again, by HEAD, when the hub can be asked.
    restart_mirror 0s
    golden missing log_of pull library/nosuch:latest
    if declare -F push >/dev/null; then golden push log_of push; fi

    hub_down
    forget
    works "a pull with the hub down" pull "$IMAGE:latest"
    golden hub-down log_of pull "$COLD:latest"
    hub_up

    # A restart, so that the hub's time down is forgotten.
    restart_mirror 0s
    set_budget 0
    forget
    forget_requests
    works "a pull with the hub out of budget" pull "$IMAGE:latest"
    cost 0 0 "$(asked token)" "out of budget"
    golden out-of-budget counting pull "$COLD:latest"

    if [[ $MIRROR_KIND == weir ]]; then
        # One pull an hour, and it is taken: each client prints whose quota it is and until when. Not the image that it knows: dockerd keeps
        # manifests, and a HEAD, which is free, is then all that it asks.
        reset_hub
        restart_with_quota
        curl -fs -o "$WORK/output" "http://$MIRROR/v2/$COLD/manifests/latest"
        golden quota counting pull "$COLD:latest"
        LIMITS=
        restart_mirror 0s
        works "a pull when the quota is raised" pull "$COLD:latest"

        works "a ban of this machine" "$BIN/weir" ban --config "$WORK/weir.toml" add 127.0.0.1 --force --reason "a test"
        forget
        golden ban counting pull "$IMAGE:latest"
        ban=$("$BIN/weir" ban --config "$WORK/weir.toml" list --json | jq -r '.bans[0].id')
        works "a lift" "$BIN/weir" ban --config "$WORK/weir.toml" lift "$ban" --reason "the test is over"
        works "a pull when the ban is lifted" pull "$IMAGE:latest"

        # Though it is cached.
        forget
        not_mirrored "$IMAGE" pull "$IMAGE:latest"
        works "a pull when the rule is gone" pull "$IMAGE:latest"
        forget
        if declare -F pull_with_warnings >/dev/null; then warned_by_policy pull_with_warnings "$IMAGE:latest"; fi
        held_to_policy pull "$IMAGE:latest"
        works "a pull when the policy is gone" pull "$IMAGE:latest"
    fi

    forget
    if [[ $MIRROR_KIND == weir ]]; then
        : >"$WORK/debian.log"
        works "a pull of the image from Debian packages" pull_debian
        equal "Debian: manifest GETs at its registry" "${debian_manifests:-$manifests}" "$(grep -c '"GET /v2/[^ ]*/manifests/' "$WORK/debian.log")"
        equal "Debian: blob GETs at its registry" "${debian_blobs:-$blobs}" "$(grep -c '"GET /v2/[^ ]*/blobs/' "$WORK/debian.log")"
        equal "Debian: the image is what it says" 'NAME="Debian GNU/Linux"' "$(use_debian 2>&1 | grep -e ^NAME -e rror || true)"
    fi
    stop_mirror
}

log_of() { "$@"; }

# counting COMMAND…: as log_of, and how many requests for manifests the mirror had of it.
counting() {
    local before status=0
    # The mirror writes what it did in batches, some milliseconds later: also what was done before.
    sleep 0.2
    before=$(wc -l <"$WORK/mirror.log")
    log_of "$@" || status=$?
    [[ $MIRROR_KIND == weir ]] || return "$status"
    sleep 0.2
    for method in HEAD GET; do
        echo "--- $method of a manifest: $(tail -n "+$((before + 1))" "$WORK/mirror.log" | grep 'weir::access' |
            grep "\"method\":\"$method\"" | grep -c '/manifests/' || true)"
    done
    return "$status"
}
