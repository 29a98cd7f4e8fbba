# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # run sources these files together
# The path of a newcomer with these pages alone: first pull, a Docker Hub account, ghcr.io, a second machine, TLS, a proxy,
# Prometheus, the dashboard's queries and an alert. Commands are run and files are written in the order of the pages. Sourced by run.

newcomers=(README.md docs/first-steps.md docs/operating/monitoring.md)
steps=0

newcomer() {
    local page before seconds=$SECONDS
    for page in "${newcomers[@]}"; do
        before=$found
        heading "a newcomer reads $page"
        case $page in
            README.md) run_page "$page" in_readme ;;
            docs/first-steps.md) run_page "$page" in_first_steps ;;
            *) run_page "$page" in_monitoring ;;
        esac
        client=$page
        ((found > before)) || failed "the page has no command"
    done
    echo "newcomer: $steps steps in $((SECONDS - seconds)) s"
}

# step WHAT COMMAND…: what the reader has reached.
step() {
    steps=$((steps + 1))
    client="step $steps"
    works "$@"
}

# in_readme PAGE LINE KIND TEXT: the part of the page is done as the reader does it, and what it promises is looked at. Likewise below.
in_readme() {
    visit "$@"
    case $3:$4 in
        "command:cargo run --release"*)
            step "Weir serves" curl -fs "http://$MIRROR/v2/"
            unfenced "$1" "[host]" >/etc/containerd/certs.d/docker.io/hosts.toml
            unfenced "$1" registry-mirrors >/etc/docker/daemon.json
            unfenced "$1" 127.0.0.1:5000/docker.io >/etc/containers/registries.conf.d/weir.conf
            [[ -e /run/docker.sock ]] || start_docker
            ;;
        "command:docker pull "*)
            step "docker pulled through Weir" wait_until weir_log library/busybox '"user_agent":"docker/'
            step "containerd pulls the same" ctr --address /run/docker/containerd/containerd.sock images pull \
                --hosts-dir /etc/containerd/certs.d docker.io/library/busybox:latest
            step "from Weir" wait_until weir_log library/busybox '"user_agent":"containerd/'
            step "podman pulls the same" podman pull --quiet docker.io/library/busybox
            step "from Weir" wait_until weir_log library/busybox '"user_agent":"containers/'
            step "and the hub counted one pull of all three" equal_to "$(asked manifest_get)" 2
            ;;
        "command:weir budget") step "the budget has the pull" grep -F docker.io/library/busybox "$WORK/printed" ;;
    esac
}

# equal_to FOUND WANTED. A pull of one platform is two manifests, that of the index and its own.
equal_to() { echo "$1, wanted $2" && [[ $1 == "$2" ]]; }

in_first_steps() {
    # From here on, the parts replace each other.
    [[ $3:$4 != "heading:## TLS" ]] || over=1
    if [[ ${over-} ]]; then
        in_alternatives "$@"
        return
    fi
    if [[ $3:$4 == block:toml ]]; then
        printf %s "$password" >/etc/weir/docker.io.password
        cp weir.toml weir.toml.before 2>/dev/null || true
        { block "$1" "$2" && echo; } | hashed >>weir.toml
        case $(block "$1" "$2") in
            *ghcr.io*) step "the file is taken up without a restart" wait_until weir_log '"reloaded"' ;;
            *"[admin]"*) open_pages ;;
        esac
        return
    fi
    visit "$@"
    case $3:$4 in
        "command:weir budget") 
            step "the budget has the account" grep -F "docker.io as acme: " "$WORK/printed"
            step "which has more pulls and so is used" account_pays acme
            ;;
        "command:docker pull 127.0.0.1:5000/ghcr.io/"*) step "ghcr.io was asked" has_logged 5897 manifest_get ;;
        "command:weir hash-password") cp "$WORK/printed" "$WORK/hash" ;;
        "command:weir client-config docker "*)
            cp "$WORK/printed" /etc/docker/daemon.json
            step "docker takes the file" systemctl reload docker
            step "a second machine pulls from it" docker pull alder:1.0
            step "by its outer address" wait_until weir_log "\"client\":\"$OUTSIDE"
            ;;
    esac
}

# Each of these configurations is a file of its own.
in_alternatives() {
    case $3:$4 in
        block:toml)
            block "$1" "$2" >alternative.toml
            step "Weir takes the file" start "weir serve --config alternative.toml" "${origin-https://weir.example.org:5000}/v2/"
            origin=http://$MIRROR
            ;;
        block:nginx)
            block "$1" "$2" >"$WORK/sites.conf"
            nginx -c "$WORK/nginx.conf" -s reload
            step "nginx is in front of Weir" wait_until curl -fs https://weir.example.org/v2/
            step "and Weir counts the client, not the proxy" wait_until counts_client
            step "the pages want a login through it" equal_status 401 https://weir-admin.example.org/api/v1/status
            ;;
        "heading:## Behind a reverse proxy") step "Weir serves over TLS" curl -fs https://weir.example.org:5000/v2/ ;;
        "heading:## As a service") start "weir serve --config weir.toml" "http://$MIRROR/v2/" ;;
        *) visit "$@" ;;
    esac
}

# Who monitors on the machine itself needs no login, and so goes on with the file as it was before.
open_pages() {
    start "weir serve --config weir.toml" "http://$MIRROR/v2/"
    step "the pages want a login from other machines" equal_status 401 "http://weir.example.org:5001/api/v1/status"
    step "and open with it" equal_status 200 --user "ops:$password" "http://weir.example.org:5001/api/v1/status"
    mv weir.toml.before weir.toml
    start "weir serve --config weir.toml" "http://$MIRROR/v2/"
}

# A worker of nginx that has the configuration of before may take a request yet.
counts_client() {
    curl -s -o "$WORK/answer" https://weir.example.org/v2/library/alder/manifests/proxied
    weir_log '"reference":"proxied"' "\"client\":\"$OUTSIDE\""
}

# weir_log WORDS: whether a line of the log has them all.
weir_log() { awk 'BEGIN { for (i = 2; i < ARGC; i++) { word[i] = ARGV[i]; ARGV[i] = "" } }
    { for (i in word) if (!index($0, word[i])) next; found = 1 } END { exit !found }' "$WORK/weir.log" "$@"; }

# account_pays ACCOUNT: whether it does for what is pulled next, once Docker Hub has named its limit.
account_pays() { copies acme/app:latest && weir budget | grep -E "docker.io as $1: [0-9]+ of [0-9]+ pulls left"; }

# has_logged CONTROL KIND
has_logged() { (($(curl -fs "http://127.0.0.1:$1/counts" | jq ".$2") > 0)); }

# equal_status STATUS ARGUMENTS OF curl
equal_status() { [[ $(curl -s -o "$WORK/answer" -w '%{http_code}' "${@:2}") == "$1" ]]; }

# hashed: with what `weir hash-password` printed where a hash is left out.
hashed() {
    local hash
    # shellcheck disable=SC2016 # it is a pattern
    hash=$(grep -oE '\$argon2id\S+' "$WORK/hash" 2>/dev/null || true)
    sed "s#\"…\"#\"${hash}\"#"
}

in_monitoring() {
    if [[ $3:$4 == block:yaml ]]; then
        # A minute's and two minutes' wait are a second here.
        { echo 'global: {scrape_interval: 1s, evaluation_interval: 1s}' && block "$1" "$2"; } >prometheus.yml
        sed -i 's/^\( *for:\) .*/\1 1s/' weir.rules.yml
        return
    fi
    case $3:$4 in
        "command:curl -s http://127.0.0.1:9090/api/v1/alerts")
            step "no alert fires before" no_alert
            stop weir
            wait_until alert_fires WeirDown || true
            visit "$@"
            step "the alert WeirDown fires" jq -e '.data.alerts[] | select(.labels.alertname == "WeirDown").state == "firing"' "$WORK/printed"
            start "weir serve --config weir.toml" "http://$MIRROR/v2/"
            step "and ends when Weir is back" wait_until no_alert
            return
            ;;
    esac
    visit "$@"
    case $3:$4 in
        "command:prometheus "*)
            step "Prometheus scrapes Weir" wait_until query 'up{job="weir"} == 1'
            traffic
            ;;
        "heading:## Grafana") dashboard ;;
    esac
}

# prometheus_has PATH FILTER [QUERY]
prometheus_has() { curl -fsSG "http://127.0.0.1:9090/api/v1/$1" --data-urlencode "query=${3-}" | jq -e "$2" >"$WORK/answer"; }
query() { prometheus_has query '.data.result[0]' "$1"; }
alert_fires() { query "ALERTS{alertname=\"$1\",alertstate=\"firing\"}"; }
no_alert() { prometheus_has query '.data.result == []' 'ALERTS{alertstate="firing"}'; }

# Pulls from upstream and from the disk, each before two scrapes, which a rate needs.
traffic() {
    local scrapes
    for scrapes in 3 6; do
        copies acme/app:1
        wait_until query "count_over_time(up[1m]) >= $scrapes"
    done
}

# Every query of the dashboard, with Grafana's variables as it fills them in for all jobs and instances.
dashboard() {
    local title expression data=0 metric empty=()
    while IFS=$'\t' read -r title expression; do
        expression=${expression//\$job/.*} expression=${expression//\$instance/.*} expression=${expression//\$__rate_interval/10s}
        if query "$expression"; then
            data=$((data + 1))
        else
            metric=$(grep -oE 'weir_[a-z_]+' <<<"$expression" | head -n 1)
            # A query that Prometheus refuses has no status of success either.
            prometheus_has query '.status == "success"' "$expression" && [[ " ${quiet[*]} " == *" $metric "* ]] ||
                empty+=("$title: $expression")
        fi
    done < <(jq -r '.. | objects | select(.targets) | .title as $title | .targets[] | [$title, .expr] | @tsv' examples/grafana/weir.json)
    step "$data queries of the dashboard have data, and all but those of denials do" none "${empty[@]}"
    step "the dashboard has queries" test "$data" -gt 0
    for metric in "${quiet[@]}"; do
        client=tables.sh
        grep -qF "$metric" examples/grafana/weir.json || failed "$metric is not in the dashboard: take it out of the table"
    done
}

# none WORDS: whether there are none.
none() { printf '%s\n' "$@" && (($# == 0)); }
