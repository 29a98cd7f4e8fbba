# An OpenAPI document as Markdown: its paths by what they are for, and its schemas. Run with jq -r.
. as $document
| def resolve: if has("$ref") then (."$ref" | ltrimstr("#/") | split("/")) as $path | $document | getpath($path) else . end;
def cell: tostring | gsub("\\|"; "\\|") | gsub("<"; "\\<") | gsub("\n"; " ");
# The kind of a value, with links to schemas.
def kind:
    if . == null then ""
    elif has("$ref") then (."$ref" | split("/") | last) as $name | "[\($name)](#\($name | ascii_downcase))"
    elif has("enum") then [.enum[] | "`\(.)`"] | join(", ")
    elif has("oneOf") or has("anyOf") then [(.oneOf // .anyOf)[] | kind] | join(" or ")
    elif .type == "array" then "list of \(.items | kind)"
    else (if .format then ", \(.format)" else "" end) as $format
        | ([.type // "any" | if type == "array" then .[] else . end] | join(" or ")) + $format
    end;
def properties:
    (.required // []) as $required
    | "| field | kind | says |\n|---|---|---|",
    ((.properties // {}) | to_entries[]
        | "| `\(.key)`\(if .key | IN($required[]) then "" else " (optional)" end) | \(.value | kind | cell) | \(.value.description // "" | cell) |");
def fields: if . == null then empty elif .properties then properties else kind end;

(.info.description, ""),
(.paths | to_entries[] | .key as $path | .value | to_entries[] | .key as $method | .value
    | "## \($method | ascii_upcase) \($path | gsub("(?<brace>[{}])"; "\\\(.brace)"))", "", "\(.summary).", "",
    (if .description then .description, "" else empty end),
    (if (.parameters // []) != [] then
        "| parameter | kind | says |\n|---|---|---|",
        (.parameters[] | resolve
            | "| `\(.name)` (\(.in)\(if .required then "" else ", optional" end)) | \(.schema | kind | cell) | \(.description // "" | cell) |"), ""
    else empty end),
    (.requestBody // empty | resolve | .content | to_entries[] | "The body is `\(.key)`:", "", (.value.schema | fields), ""),
    (.responses | to_entries[] | .key as $status | .value | resolve
        | "* **\($status)** \(.description | cell)\([.content // {} | to_entries[] | .value.schema | select(. != null) | kind | select(. != "object")] | if . == [] then "" else ": " + join(", ") end)"),
    ""),
"# Schemas", "",
(.components.schemas | to_entries[] | "## \(.key)", "", (if .value.description then .value.description, "" else empty end), (.value | fields), "")
