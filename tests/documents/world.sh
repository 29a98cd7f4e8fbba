# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # run sources these files together
# The machine of the reader: its files, names, certificates and services, and what stands behind them. Sourced by run.

# Documentation's own addresses (RFC 5737): the registries, and the address at which other machines reach this one.
readonly REGISTRIES=203.0.113.1 OUTSIDE=192.0.2.1
home=$WORK/clone

begin_world() {
    ip link set lo up
    ip address add "$REGISTRIES/32" dev lo
    ip address add "$OUTSIDE/32" dev lo
    mkdir "$home" "$WORK/bin" "$WORK/backup"
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/lib
    cp -a /etc "$WORK/etc" && mount --bind "$WORK/etc" /etc
    rm -rf /etc/docker /etc/weir /etc/containerd /etc/containers/registries.conf.d && mkdir -p /etc/docker /etc/weir /etc/containers/registries.conf.d \
        /etc/containerd/certs.d/docker.io
    printf '%s\n' '127.0.0.1 localhost' "$OUTSIDE weir.example.org weir-admin.example.org" \
        "$REGISTRIES registry-1.docker.io auth.docker.io ghcr.io quay.io registry.example.com" >"$WORK/hosts"
    : >"$WORK/resolv.conf"
    mount --bind "$WORK/hosts" /etc/hosts
    mount --bind "$WORK/resolv.conf" /etc/resolv.conf
    ln -s "$BIN/weir" "$BIN/weir-conformance" /usr/bin/docker "$WORK/bin"
    export PATH=$WORK/bin:$PATH HOME=$WORK/person STORAGE_DRIVER=vfs
    export -n BIN
    mkdir "$HOME"
    # The clone that the reader stands in.
    ln -s "$root"/{deploy.toml,docs,examples,.ci} "$home"
    cd "$home" || return
    services
    certificates
    registries
}

# The service manager, the journal and the scanner of the reader's machine. `weir` and `docker` are the services.
services() {
    cat >"$WORK/bin/systemctl" <<'SH'
#!/usr/bin/env bash
set -euo pipefail
source "$0.conf"
case "$*" in
    "start weir") setsid weir serve --config /etc/weir/weir.toml >>"$WORK/weir.log" 2>&1 & echo $! >"$WORK/weir.pid" ;;
    "stop weir") kill "$(cat "$WORK/weir.pid")" && tail --pid="$(cat "$WORK/weir.pid")" -f /dev/null ;;
    "reload docker") kill -HUP "$(cat /run/docker.pid)" ;;
    *) echo "systemctl: $* is not known here" >&2 && exit 1 ;;
esac
SH
    cat >"$WORK/bin/journalctl" <<'SH'
#!/usr/bin/env bash
set -euo pipefail
source "${0%/*}/systemctl.conf"
[[ "$*" == "-u docker" ]] && cat "$WORK/docker.log"
SH
    # A scanner that finds nothing.
    printf '#!/bin/sh\necho %s\n' "'{\"SchemaVersion\": 2, \"Results\": []}'" >"$WORK/bin/trivy"
    echo "WORK=$WORK" >"$WORK/bin/systemctl.conf"
    chmod +x "$WORK/bin/systemctl" "$WORK/bin/journalctl" "$WORK/bin/trivy"
}

# A certificate for every name, from an authority that this machine trusts as it trusts the public ones.
certificates() {
    local names=DNS:registry-1.docker.io,DNS:auth.docker.io,DNS:ghcr.io,DNS:quay.io,DNS:registry.example.com,DNS:weir.example.org
    names+=,DNS:weir-admin.example.org
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2)
    openssl req -x509 "${key[@]}" -subj /CN=authority -keyout "$WORK/ca.key" -out "$WORK/ca.crt" 2>"$WORK/output"
    openssl req -x509 "${key[@]}" -subj /CN=registries -addext "subjectAltName=$names" -addext basicConstraints=CA:FALSE \
        -CA "$WORK/ca.crt" -CAkey "$WORK/ca.key" -keyout /etc/weir/tls.key -out /etc/weir/tls.crt 2>"$WORK/output"
    cat "$WORK/ca.crt" >>/etc/ssl/certs/ca-certificates.crt
}

# Docker Hub, ghcr.io and a registry of one's own, over TLS at their names.
registries() {
    weir-conformance hub --no-redirect --limit 100 --account "acme:$password:200" --image library/busybox:latest=1 --image library/alder:1.0=2 \
        --image acme/app:1=3 --image acme/app:latest=4 >"$WORK/hub.log" 2>&1 &
    weir-conformance hub --no-redirect --listen 127.0.0.1:5899 --cdn 127.0.0.1:5898 --control 127.0.0.1:5897 \
        --image acme/app:1=5 >"$WORK/ghcr.log" 2>&1 &
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s", host: "https://registry.example.com"}\n' \
        "$WORK/registry" "$DEBIAN" >"$WORK/registry.yml"
    docker-registry serve "$WORK/registry.yml" >"$WORK/registry.log" 2>&1 &
    # The stand-ins speak plain HTTP and name their token services so.
    cat >"$WORK/nginx.conf" <<NGINX
user root;
pid $WORK/nginx.pid;
error_log $WORK/nginx.log;
events {}
http {
    access_log off;
    client_max_body_size 0;
    client_body_temp_path $WORK/nginx-body;
    proxy_temp_path $WORK/nginx-proxy;
    fastcgi_temp_path $WORK/nginx-fastcgi;
    uwsgi_temp_path $WORK/nginx-uwsgi;
    scgi_temp_path $WORK/nginx-scgi;
    ssl_certificate /etc/weir/tls.crt;
    ssl_certificate_key /etc/weir/tls.key;
    proxy_http_version 1.1;
    proxy_set_header Host \$host;
    map \$host \$tokens { default \$host; registry-1.docker.io auth.docker.io; }
    map \$upstream_http_www_authenticate \$challenge {
        default "";
        ~^Bearer\ realm="http://[^/]*(?<rest>.*)$ 'Bearer realm="https://\$tokens\$rest';
    }
    proxy_hide_header WWW-Authenticate;
    add_header WWW-Authenticate \$challenge always;
    server { listen 443 ssl; server_name registry-1.docker.io auth.docker.io; location / { proxy_pass http://$HUB; } }
    server { listen 443 ssl; server_name ghcr.io quay.io; location / { proxy_pass http://127.0.0.1:5899; } }
    server { listen 443 ssl; server_name registry.example.com; location / { proxy_pass http://$DEBIAN; } }
    include $WORK/sites*.conf;
}
NGINX
    nginx -c "$WORK/nginx.conf"
    wait_until curl -fs "http://$CONTROL/counts"
    wait_until curl -fs http://127.0.0.1:5897/counts
    wait_until curl -fs https://registry.example.com/v2/
}

# --- what runs -----------------------------------------------------------------------------------------------------------------

start_docker() {
    dockerd >"$WORK/docker.log" 2>&1 &
    wait_until docker info
}

# start COMMAND URL: in the place of what the same command left running, and until it answers.
start() {
    local name=${1%% *}
    stop "$name"
    : >"$WORK/printed"
    eval "exec $1" >>"$WORK/$name.log" 2>&1 </dev/null &
    echo $! >"$WORK/$name.pid"
    wait_until answers_or_ended "$(cat "$WORK/$name.pid")" "$2" 2>"$WORK/errors"
    kill -0 "$(cat "$WORK/$name.pid")" 2>/dev/null || { cp "$WORK/$name.log" "$WORK/errors" && return 1; }
}

# stop NAME: as Ctrl-C does, and until it has ended.
stop() {
    [[ -e $WORK/$1.pid ]] || return 0
    kill "$(cat "$WORK/$1.pid")" 2>/dev/null && tail --pid="$(cat "$WORK/$1.pid")" -f /dev/null
    rm "$WORK/$1.pid"
}

# type_in COMMAND LINES: at a terminal, one line at each prompt.
type_in() {
    local answers number status=0
    mapfile -t answers <<<"$2"
    : >"$WORK/printed"
    rm -f "$WORK/terminal" && mkfifo "$WORK/terminal"
    script --quiet --return --flush --command "$1" "$WORK/typescript" <"$WORK/terminal" >"$WORK/printed" 2>"$WORK/errors" &
    exec 4>"$WORK/terminal"
    for number in "${!answers[@]}"; do
        wait_until prompts $((number + 1)) || break
        printf '%s\r' "${answers[$number]}" >&4
    done
    # The terminal stays open until the command has ended.
    wait $! || status=$?
    exec 4>&-
    return "$status"
}

# prompts COUNT: whether so many were printed.
prompts() { (($(grep -oE '(Username|[Pp]assword|the same again): ' "$WORK/printed" | wc -l) >= $1)); }

# --- scenes --------------------------------------------------------------------------------------------------------------------

copies() { skopeo copy --quiet --src-tls-verify=false "docker://$MIRROR/$1" "dir:$WORK/copy" && rm -r "$WORK/copy"; }

# configure PAGE WORD: with the first TOML block of the page that has the word.
configure() {
    local at
    for at in $(parts "$1" | awk -F'\t' '$2 == "block" && $3 == "toml" {print $1}'); do
        [[ $(block "$1" "$at") == *"$2"* ]] || continue
        block "$1" "$at" | hashed >>weir.toml
        return
    done
    failed "$1 has no configuration with $2"
}

# Pushes, as the page configures them; docker and skopeo know that the mirror speaks plain HTTP.
scene_clients() {
    configure docs/clients.md "[hosted]"
    configure docs/operating/images.md "[scanner]"
    printf '[[registry]]\nlocation = "weir.example.org:5000"\ninsecure = true\n' >/etc/containers/registries.conf.d/insecure.conf
    start "weir serve --config weir.toml" "http://$MIRROR/v2/"
}

scene_cache() { copies library/alder:1.0 && copies acme/app:1; }

# An image of Weir, as `.ci/image` names it. What that makes is tried by tests/image/run.
scene_container() {
    local files=$WORK/image library
    mkdir -p "$files"/usr/bin "$files/data" "$files/etc/ssl/certs" target/image
    strip -o "$files/usr/bin/weir" "$BIN/weir"
    for library in $(ldd "$BIN/weir" | grep -oE '/[^ ]+'); do cp --parents "$library" "$files"; done
    cp --parents examples/container/weir.toml "$files"
    cp /etc/ssl/certs/ca-certificates.crt "$files/etc/ssl/certs"
    chown 65532:65532 "$files/data"
    tar --create --directory "$files" . | docker import --change 'ENTRYPOINT ["/usr/bin/weir"]' --change 'USER 65532:65532' \
        --change 'ENV WEIR_CONFIG=/examples/container/weir.toml' --change 'VOLUME /data' - weir:1.0 >"$WORK/output"
    skopeo copy --quiet docker-daemon:weir:1.0 "oci-archive:target/image/weir-${replaced[VERSION]}-image.tar"
    scene_build
}

# The image that the Containerfile builds from, at the stand-in for Docker Hub: what its RUN asks for, and a cargo that builds what was
# built already. The clone is copied, since no link leads out of what podman gives to a build.
scene_build() {
    local files=$WORK/rust program part link
    mkdir -p "$files"/{bin,tmp,usr/bin,etc/ssl/certs}
    for program in /bin/sh /bin/{chmod,cp,mkdir} /usr/bin/{dirname,install,strip}; do
        for part in "$program" $(ldd "$program" | grep -oE '/[^ ]+'); do
            cp --parents --no-clobber --dereference "$part" "$files"
        done
    done
    cp /etc/ssl/certs/ca-certificates.crt "$files/etc/ssl/certs"
    strip -o "$files/weir" "$BIN/weir"
    printf '#!/bin/sh\n[ "$*" = "--print host-tuple" ] && echo x86_64-unknown-linux-gnu\n' >"$files/usr/bin/rustc"
    cat >"$files/usr/bin/cargo" <<'SH'
#!/bin/sh
set -e
[ "$*" = "build --release --locked --package weir --target x86_64-unknown-linux-gnu" ]
[ -e deploy.toml ] && [ "$RUSTFLAGS" = "-C target-feature=+crt-static" ]
mkdir -p target/x86_64-unknown-linux-gnu/release
cp /weir target/x86_64-unknown-linux-gnu/release
SH
    chmod +x "$files"/usr/bin/{rustc,cargo}
    tar --create --file "$WORK/rust.tar" --directory "$files" --owner 0 --group 0 .
    rm -r "$files"
    control POST image "library/rust:1.95-slim-bookworm=6,single,rootfs=$WORK/rust.tar"
    for link in deploy.toml examples; do
        rm "$home/$link" && cp -r "$root/$link" "$home"
    done
    # The network of a build is the machine's, as there is no bridge in this one; its limits are.
    printf '[containers]\nnetns = "host"\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n' \
        >/etc/containers/containers.conf
    forget_requests
}

# The base came from Docker Hub through Weir, and the image has the program. Then the next container has Weir's port.
after_build() {
    client=docs/operating/container.md
    works "the base image came through Weir" weir_log library/rust '"user_agent":"Buildah/' '"status":200'
    works "and the hub counted one pull of it" equal_to "$(asked manifest_get)" 1
    works "the image starts as its user" podman image inspect --format '{{.User}} {{.Config.Entrypoint}}' weir
    equal_to "$(cat "$WORK/output")" "65532:65532 [/usr/bin/weir]" >"$WORK/answer" || failed "the image is another: $(cat "$WORK/output")"
    stop weir
}

scene_offline() {
    client=docs/operating/container.md
    works "the container answers" wait_until curl -fs "http://$MIRROR/v2/"
    docker ps --quiet | xargs docker rm --force >"$WORK/output"
    start "weir serve --config weir.toml" "http://$MIRROR/v2/"
}

scene_troubleshooting() {
    weir ban add 198.51.100.7 --reason "it asks for everything" >"$WORK/output"
    # dockerd meets an error at the mirror, and goes on.
    ! docker pull library/absent >"$WORK/output" 2>&1
}

scene_backup() {
    stop weir
    cp -a weir-data /var/lib/weir
    { cat weir.toml && printf '[storage]\nroot = "/var/lib/weir"\n'; } >/etc/weir/weir.toml
    systemctl start weir
    wait_until curl -fs "http://$MIRROR/v2/"
}
