# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # run sources these files together
# The commands of the documents, read from the pages and run as they stand. Sourced by run.

declare -A used=() commands=()
found=0 ran=0 left_out=0

# pages: README.md and every page of the book, in its order.
pages() {
    echo README.md
    sed -nE 's#^.*\]\(([^)]*\.md)\)$#docs/\1#p' "$root/docs/SUMMARY.md"
}

# parts PAGE: what a page has, one a line: its number in the file, a tab, what it is, a tab, its text. It is a command, a heading, a
# block of another language than sh and console, whose text `block` prints, or a line of a block without a language.
parts() {
    awk -v OFS='\t' '
        /^```/ {
            fenced = !fenced; indented = 0; blank = 0
            if (fenced) language = substr($0, 4)
            if (fenced && language != "" && language !~ /^(sh|console)$/) print NR, "block", language
            next
        }
        {
            code = fenced || (/^    / && (indented || blank))
            text = fenced ? $0 : substr($0, 5)
            kind = fenced ? language : ""
            indented = code && !fenced; blank = $0 == ""
        }
        !code && /^#/ { print NR, "heading", $0 }
        !code || text == "" || kind !~ /^(sh|console)?$/ { next }
        {
            if (held != "") text = held text
            else if (sub(/^\$ /, "", text)) at = NR
            else if (kind == "sh" && text !~ /^#/) at = NR
            else { if (kind == "") print NR, "line", text; next }
            held = ""
            if (sub(/\\$/, "", text)) { held = text; next }
            print at, "command", text
        }' "$root/$1"
}

# named PAGE: the commands of weir and curl that stand between backticks in the text: a line, a tab, the command with its arguments.
named() {
    perl -0777 -ne '
        s/^```.*?^```$/"\n" x ($& =~ tr,\n,,)/gmse;
        while (/`((?:weir|curl)\s[^`]+)`/g) {
            my ($command, $line) = ($1, 1 + (substr($_, 0, $-[0]) =~ tr/\n//));
            $command =~ s/\s+/ /g;
            print "$line\t$command\n";
        }' "$root/$1"
}

# block PAGE LINE: the text of the block whose fence is on that line.
block() { sed -n "$(($2 + 1)),/^\`\`\`/{/^\`\`\`/d;p}" "$root/$1"; }

# unfenced PAGE WORD: the indented block that has the word.
unfenced() {
    awk -v word="$2" '
        /^    / { text = text substr($0, 5) "\n"; has = has || index($0, word); next }
        { if (has) printf "%s", text; text = ""; has = 0 }' "$root/$1"
}

# entry TABLE COMMAND: the longest key of the table that the command begins with, if there is one, in $key.
entry() {
    local -n table=$1
    local candidate
    key=
    for candidate in "${!table[@]}"; do
        if [[ "$2 " == "$candidate "* && ${#candidate} -gt ${#key} ]]; then key=$candidate; fi
    done
    [[ $key ]] || return
    used[$key]=1
}

# stand_in COMMAND: the command with the words of the table replaced, in $command. The longest words come first.
stand_in() {
    local word before
    command=$1
    while IFS= read -r word; do
        before=$command
        command=$(WORD=$word WITH=${replaced[$word]} perl -pe 's/(?<![\w\$])\Q$ENV{WORD}\E(?!\w)/$ENV{WITH}/g' <<<"$command")
        [[ $command == "$before" ]] || used[$word]=1
    done < <(printf '%s\n' "${!replaced[@]}" | awk '{print length, $0}' | sort -rn | cut -d' ' -f2-)
}

# run_command PAGE LINE COMMAND: as it stands, in the shell and the directory of the reader. What it prints is in $WORK/printed.
run_command() {
    local command key status=0 wanted=0 text=${3%% #*} begun=${EPOCHREALTIME/./}
    client=$1:$2
    text=${text%"${text##*[! ]}"}
    found=$((found + 1)) commands[$1]=1
    stand_in "$text"
    if entry not_run "$command"; then
        left_out=$((left_out + 1))
        echo "not run ${client}: $text (${not_run[$key]})"
        return
    fi
    ran=$((ran + 1))
    if entry typed "$command"; then
        type_in "$command" "${typed[$key]}" || status=$?
    elif entry stays "$command"; then
        start "$command" "${stays[$key]}" || status=$?
    else
        eval "$command" >"$WORK/printed" 2>"$WORK/errors" <"/dev/null" || status=$?
    fi
    if entry statuses "$command"; then wanted=${statuses[$key]}; fi
    if ((status == wanted)); then
        ok "$text"
        if entry after "$command"; then "${after[$key]}"; fi
    else
        failed "$text: ended with $status"
        sed 's/^/        | /' "$WORK/printed" "$WORK/errors"
    fi
    local took=$((${EPOCHREALTIME/./} - begun))
    ((took < 2000000)) || echo "        after $((took / 1000)) ms"
}

# run_page PAGE [VISITOR]: every command of the page. VISITOR, if given, is called with PAGE, LINE, KIND and TEXT of every part instead.
run_page() {
    local line kind text
    if [[ ${scenes[$1]-} ]]; then "${scenes[$1]}"; fi
    while IFS=$'\t' read -r line kind text <&3; do
        if [[ ${2-} ]]; then "$2" "$1" "$line" "$kind" "$text"; else visit "$1" "$line" "$kind" "$text"; fi
    done 3< <(parts "$1")
}

# run_named PAGE: the commands in its text, but for those that are named without what they want.
run_named() {
    local line text
    while IFS=$'\t' read -r line text <&3; do
        if [[ ${mentioned[$text]-} ]]; then
            used[$text]=1
        elif [[ $text == "weir verify "* ]]; then
            # As the pages say: with Weir stopped.
            stop weir
            run_command "$1" "$line" "$text"
            start "weir serve --config weir.toml" "http://$MIRROR/v2/"
        else
            run_command "$1" "$line" "$text"
        fi
    done 3< <(named "$1")
}

# The programs that commands of the documents begin with.
programs=" $(for page in $(pages); do parts "$page"; done | sed -nE 's/^[0-9]+\tcommand\t([a-z][a-z-]*) .*/\1/p' | sort -u | paste -sd' ') "

visit() {
    case $3 in
        command) run_command "$1" "$2" "$4" ;;
        line)
            # A command that is shown and not run would be right for ever.
            client=$1:$2
            [[ $programs != *" ${4%% *} "* ]] || failed "$4: write a command in a block of the language sh, or after \"\$ \""
            ;;
    esac
}
