# deploy.toml as Markdown: a heading for each table and each key, with its default and what the comment above it says.

# A line of prose; what stands between backticks is code already.
function escaped(line,    pieces, number, i, all) {
    number = split(line, pieces, "`")
    for (i = 1; i <= number; i++) {
        if (i % 2) gsub(/[<*]/, "\\\\&", pieces[i])
        all = all (i > 1 ? "`" : "") pieces[i]
    }
    return all
}

# What was read of the comment, as prose; lines that are indented in it keep their form.
function comment(    number, line, plain) {
    for (number = 1; number <= count; number++) {
        line = lines[number]
        if (line ~ /^  / && !plain) { print "\n```text"; plain = 1 }
        if (line !~ /^  / && plain) { print "```\n"; plain = 0 }
        print plain ? line : escaped(line)
    }
    if (plain) print "```"
    if (count) print ""
    count = 0
}

{ text = $0; in_force = 1 }
sub(/^# /, "", text) { in_force = 0 }

text == "" { comment(); next }

text ~ /^\[+[a-z._]+\]+$/ {
    name = text
    gsub(/[][]/, "", name)
    if (name in tables) {
        again = 1
        comment()
        print "```toml\n" text "\n```\n"
    } else {
        again = 0
        printf "## %s\n\n", text
        comment()
    }
    tables[table = name] = 1
    key = ""
    next
}

text ~ /^[a-z_0-9]+ = / {
    name = text
    sub(/ = .*/, "", name)
    if (again) {
        comment()
        print "```toml\n" text "\n```\n"
    } else {
        if (name != key) printf "### %s.%s\n\n", table, name
        print "```toml\n" (in_force ? text : text "   # for example; nothing unless given") "\n```\n"
        comment()
    }
    key = name
    next
}

{ sub(/^# ?/, ""); lines[++count] = $0 }
END { comment() }
