# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # run sources these files together
# What this machine stands in for, and what is not run. Sourced by run. An entry that fits no command of any page fails the run.

# A word of a command, and what stands for it here.
# shellcheck disable=SC2016 # the shell expands it with the command
declare -A replaced=(
    ["cargo run --release -p weir-conformance --"]=weir-conformance
    ["cargo run --release"]="weir serve"
    [VERSION]=1.0
    [KEY]=release
    [ID]='$(weir ban list --json | jq -r ".bans[0].id")'
    [/backup]=$WORK/backup
    [CLIENT]=docker
    [FILE]=weir.toml
    [IMAGE]=library/busybox
    [NAME]=library/busybox
    [URL]=http://weir.example.org:5000
)

# Commands in the text that are named without the arguments that they want.
declare -A mentioned
for key in "weir ban" "weir ban add" "weir ban lift" "weir cache" "weir cache warm" "weir cache export" "weir cache show" \
    "weir cache unpin" "weir cache purge --older-than 30d" "weir image" "weir image --scanner" "weir client-config" "weir verify" \
    "weir client-config CLIENT --url" "curl -X POST"; do
    mentioned[$key]=1
done

# What a command begins with, and why it is not run.
declare -A not_run=(
    ["cargo test --workspace"]="the phase \"the README's test command\" runs it"
    ["weir-conformance mirror --self"]="the phase \"mirror suite against Weir\" runs the suite, which takes minutes"
    ["weir-conformance mirror --peer"]="takes minutes; the page has the date on which it was run by hand"
    ["weir-conformance compare"]="compares what the two suites wrote"
    [".ci/image"]="the phase \"a release\" makes the image"
)

# What a command begins with, and what a person types at each of its prompts, one a line.
declare -A typed=(
    ["weir hash-password"]=$password$'\n'$password
    ["docker login"]=ci$'\n'$password
)

# What a command begins with, and its status other than 0: a rule is broken, as the page says; the warm of the page has ended by then.
declare -A statuses=(
    ["weir image"]=1
    ["weir cache warm-cancel"]=1
)

# What a command begins with, and the function of world.sh that says what it must have done.
declare -A after=(
    ["podman build"]=after_build
)

# What a command begins with that runs until it is stopped, and where it answers meanwhile.
declare -A stays=(
    ["weir serve"]=http://$MIRROR/v2/
    ["prometheus"]=http://127.0.0.1:9090/-/ready
)

# Metrics of which nothing has happened on a newcomer's Weir, so that what the dashboard asks of them alone has no data.
quiet=(weir_throttle_denied_total weir_budget_decisions_total weir_ban_refused_total weir_repository_refused_total)

# What must be there before the commands of a page: functions of world.sh.
declare -A scenes=(
    [docs/clients.md]=scene_clients
    [docs/operating/cache.md]=scene_cache
    [docs/operating/container.md]=scene_container
    [docs/operating/offline.md]=scene_offline
    [docs/operating/troubleshooting.md]=scene_troubleshooting
    [docs/operating/backup.md]=scene_backup
)
