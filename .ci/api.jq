# An OpenAPI document as Markdown: its paths by what they are for, and its schemas. Run with jq -r.
. as $document
| def resolve: if has("$ref") then (."$ref" | ltrimstr("#/") | split("/")) as $path | $document | getpath($path) else . end;
def cell: tostring | gsub("\\|"; "\\|") | gsub("<"; "\\<") | gsub("\n"; " ");
# The kind of a value, with links to schemas.
def kind:
    if . == null then ""
    elif has("$ref") then (."$ref" | split("/") | last) as $name | "[\($name)](#\($name | ascii_downcase))"
    elif has("const") then "`\(.const)`"
    elif has("enum") then [.enum[] | "`\(.)`"] | join(", ")
    elif has("oneOf") or has("anyOf") then [(.oneOf // .anyOf)[] | kind] | join(" or ")
    elif .type == "array" then "list of \(.items | kind)"
    else (if .format then ", \(.format)" else "" end) as $format
        | ([.type // "any" | if type == "array" then .[] else . end] | join(" or ")) + $format
    end;
# Each field, and those of objects that stand within it: `budgets[].left`.
def rows($within):
    (.required // []) as $required
    | (.properties // {}) | to_entries[]
    | "\($within)\(.key)" as $name
    | "| `\($name)`\(if .key | IN($required[]) then "" else " (optional)" end) | \(.value | kind | cell) | \(.value.description // "" | cell) |",
      (.value | if has("properties") then rows("\($name).") elif .items.properties? then .items | rows("\($name)[].") else empty end);
def properties: "| field | kind | says |\n|---|---|---|", rows("");
# An object that is described where it stands, or a list of such.
def inline: if has("properties") then . elif .items.properties? then .items else empty end;
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
    (.responses | to_entries[] | .key as $status | .value | resolve | .content // {} | to_entries[] | .value.schema | select(. != null) | inline
        | "", "What **\($status)** has:", "", properties),
    ""),
"# Schemas", "",
(.components.schemas | to_entries[] | "## \(.key)", "", (if .value.description then .value.description, "" else empty end), (.value | fields), "")
