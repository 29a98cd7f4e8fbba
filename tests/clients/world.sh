#!/usr/bin/env bash
# The world in which the clients run: loopback alone, a Docker Hub, a registry with a real image, and no way out.
# Started by `run` inside fresh network, mount and process namespaces.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

ip link set lo up
mount -t tmpfs tmpfs /run
# dockerd goes to Docker Hub by itself when its mirror fails. Here Docker Hub is a closed port, and always answers alike.
printf '127.0.0.1 %s\n' localhost registry-1.docker.io auth.docker.io index.docker.io >"$WORK/hosts"
mount --bind "$WORK/hosts" /etc/hosts
printf 'nameserver 127.0.0.1\n' >"$WORK/resolv.conf"
mount --bind "$WORK/resolv.conf" /etc/resolv.conf

start_hub
start_debian_registry

for client in "$@"; do
    heading "$client"
    bash "$here/$client.sh" || failed "$client.sh ended early"
done

passed=$(grep -c '^ok' "$WORK/results" || true)
failed=$(grep -c '^FAILED' "$WORK/results" || true)
echo
grep '^FAILED' "$WORK/results" || true
echo "clients: $passed passed, $failed failed"
((passed > 0 && failed == 0))
