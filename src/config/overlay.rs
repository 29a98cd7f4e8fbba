//! The environment laid over a configuration file: `WEIR_SERVER__LISTEN=…` is `listen` in `[server]`.
//!
//! Two underscores stand between a table and a key, in upper case; a number names an entry of a list of tables
//! (`WEIR_UPSTREAM__0__URL`). Lists are comma-separated. A key that has no default may be of any kind, and the type that reads it says of
//! which. Variables without two underscores are not ours to judge, for
//! Kubernetes sets `WEIR_PORT` and its like in every pod beside a service named `weir`, and `WEIR_LISTENER_0_PORT` beside one named
//! `weir-listener-0`; but one that would be a setting with two is an error.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{ConfigError, places::Places};

/// What the value of a variable may be instead, by its key, when the type that reads the key refuses it: the next comes last.
pub(super) type OtherKinds = BTreeMap<String, Vec<Value>>;

/// Puts what the environment says into `table`; what it says wins. Notes in `noticed` what is odd about it: a value of the file
/// that is overridden, and a filter in `WEIR_LOG` that cannot be read. What is wrong is left out, and goes to `errors`.
pub(super) fn lay_over(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
    known: &Value,
    places: &mut Places,
    noticed: &mut Vec<ConfigError>,
    errors: &mut Vec<ConfigError>,
) -> OtherKinds {
    let mut others = OtherKinds::new();
    let environment = environment.into_iter();
    let mut variables: Vec<(String, String)> = environment.filter(|(name, _)| name.starts_with("WEIR_")).collect();
    // In a fixed order, so that errors always come in the same one.
    variables.sort();
    let file = table.clone();
    for (variable, text) in variables {
        let name = &variable["WEIR_".len()..];
        if name == "LOG"
            && let Err(error) = text.parse::<tracing_subscriber::EnvFilter>()
        {
            let fix = format!(r#"{error}; this part is left out; write "info" or "info,weir=debug""#);
            noticed.push(ConfigError::new(&variable, &text, fix));
        }
        if !name.contains("__") {
            let Some(meant) = meant(known, name) else { continue };
            let fix = format!("this is no setting; write {meant}, with two underscores between a table and its key");
            errors.push(ConfigError::without_value(variable, fix));
            continue;
        }
        let path: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
        let key = with_brackets(&path);
        let mut set = || {
            let mut kinds = kinds(&text, sample(known, &path))?;
            let is_other = |written: &&Value| !kinds.contains(written) && !key.contains("password");
            if let Some(written) = find(&file, &key).filter(is_other) {
                let fix = format!("overrides {key} = {written} of the configuration file");
                noticed.push(ConfigError::new(&variable, &text, fix));
            }
            let value = kinds.pop().unwrap_or_else(|| Value::String(text.clone()));
            if !kinds.is_empty() {
                others.insert(key.clone(), kinds);
            }
            put(table, &path, value, Some(known))
        };
        match set() {
            Ok(()) => places.add_variable(key, &variable),
            Err(fix) => errors.push(ConfigError::new(&variable, &text, fix)),
        }
    }
    others
}

/// A path as serde names it: `upstream[0].url`.
fn with_brackets(path: &[String]) -> String {
    path.iter().fold(String::new(), |key, word| match word.parse::<usize>() {
        Ok(number) => format!("{key}[{number}]"),
        Err(_) if key.is_empty() => word.clone(),
        Err(_) => format!("{key}.{word}"),
    })
}

/// What stands at `path` by default; any entry of a list is like its first.
fn sample<'a>(known: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(known, |value, key| match value {
        Value::Array(list) => list.first(),
        Value::Table(table) => table.get(key),
        _ => None,
    })
}

/// Whether Kubernetes sets a variable that ends so for a service: no entry of a list has a key of this kind.
fn is_of_a_service(rest: &[&str]) -> bool {
    matches!(rest, ["port", ..] | ["service", "host"] | ["service", "port", ..])
}

/// The variable that was meant by this name, behind `WEIR_`, with single underscores.
fn meant(known: &Value, name: &str) -> Option<String> {
    fn path(known: &Value, words: &[&str]) -> Option<String> {
        let [first, rest @ ..] = words else { return None };
        match known {
            Value::Array(list) if first.parse::<usize>().is_ok() && !rest.is_empty() && !is_of_a_service(rest) => {
                // What an entry of a list holds that is empty by default is not known here.
                let key = list.first().map_or_else(|| Some(rest.join("_")), |entry| path(entry, rest))?;
                Some(format!("{first}__{key}"))
            }
            // A key may hold underscores itself.
            Value::Table(table) => (1..=words.len()).find_map(|count| {
                let (key, rest) = (words[..count].join("_"), &words[count..]);
                let value = table.get(&key)?;
                if rest.is_empty() { Some(key) } else { Some(format!("{key}__{}", path(value, rest)?)) }
            }),
            _ => None,
        }
    }
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split('_').collect();
    let path = path(known, &words)?;
    path.contains("__").then(|| format!("WEIR_{}", path.to_ascii_uppercase()))
}

/// What a text may stand for, the likeliest last; one value, when a sample says of what kind it is.
fn kinds(text: &str, sample: Option<&Value>) -> Result<Vec<Value>, String> {
    let list = || {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Value::Array(entries.map(|entry| Value::String(entry.to_owned())).collect())
    };
    let [whole, number, flag] = [
        text.parse().map(Value::Integer).map_err(|_| "write a whole number, such as 64".to_owned()),
        text.parse().map(Value::Float).map_err(|_| "write a number, such as 0.9".to_owned()),
        text.parse().map(Value::Boolean).map_err(|_| "write true or false".to_owned()),
    ];
    let one = match sample {
        Some(Value::Integer(_)) => whole?,
        Some(Value::Float(_)) => number?,
        Some(Value::Boolean(_)) => flag?,
        // Of the keys that take one value or several, only `listen` may hold a comma, so a comma makes a list anywhere.
        Some(Value::Array(_)) => list(),
        Some(_) if text.contains(',') => list(),
        Some(_) => Value::String(text.to_owned()),
        None => {
            let (text, list) = (Value::String(text.to_owned()), list());
            let [likely, other] =
                if matches!(&list, Value::Array(list) if list.len() > 1) { [list, text] } else { [text, list] };
            // When no kind fits, what is wrong with the likeliest is the error.
            return Ok([Some(likely.clone()), number.ok(), whole.ok(), flag.ok(), Some(other), Some(likely)]
                .into_iter()
                .flatten()
                .collect());
        }
    };
    Ok(vec![one])
}

/// Puts `value` where `path` leads below `table`, which by default looks like `known`.
fn put(table: &mut Table, path: &[String], value: Value, known: Option<&Value>) -> Result<(), String> {
    let [key, rest @ ..] = path else { return Err("name a key of the entry too".to_owned()) };
    let known = known.and_then(|known| known.get(key.as_str()));
    let [next, ..] = rest else {
        table.insert(key.clone(), value);
        return Ok(());
    };
    let is_list = matches!(known, Some(Value::Array(_)));
    let entry = table.entry(key.clone()).or_insert_with(|| match known {
        // The upstream of the defaults is there to be changed; other lists are empty by default.
        Some(Value::Array(list)) => Value::Array(list.clone()),
        // No key of a table is a number.
        None if next.parse::<usize>().is_ok() => Value::Array(Vec::new()),
        _ => Value::Table(Table::new()),
    });
    match (entry, next.parse::<usize>()) {
        (Value::Array(list), Ok(number)) => {
            if number == list.len() {
                list.push(Value::Table(Table::new()));
            }
            match list.get_mut(number) {
                Some(Value::Table(entry)) => put(entry, &rest[1..], value, known.and_then(|list| list.get(0))),
                _ => Err(format!("{key} has no entry {number}; entries are numbered from 0 without gaps")),
            }
        }
        (Value::Array(_), Err(_)) => Err(format!("name the entry too, as in WEIR_{}__0__…", key.to_ascii_uppercase())),
        (Value::Table(inner), _) if !is_list => put(inner, rest, value, known),
        _ => Err(format!("{key} is not a table")),
    }
}

/// What stands by default at a path as serde names it; any entry of a list is like its first.
pub(super) fn default_of(known: &Value, path: &str) -> Option<Value> {
    let keys: Vec<String> = path
        .split(['.', '[', ']'])
        .filter(|key| !key.is_empty() && key.parse::<usize>().is_err())
        .map(str::to_owned)
        .collect();
    keys.iter()
        .try_fold(known, |value, key| match value {
            Value::Array(list) => list.first()?.get(key),
            value => value.get(key),
        })
        .cloned()
}

/// The value at a path as serde names it: `upstream[0].url`.
pub(super) fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let (first, mut rest) = keys(path);
    rest.try_fold(table.get(first?)?, |value, key| match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        value => value.get(key),
    })
}

/// As [`find`].
pub(super) fn find_mut<'a>(table: &'a mut Table, path: &str) -> Option<&'a mut Value> {
    let (first, mut rest) = keys(path);
    rest.try_fold(table.get_mut(first?)?, |value, key| match value {
        Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?),
        value => value.get_mut(key),
    })
}

/// The words of a path as serde names it.
fn keys(path: &str) -> (Option<&str>, impl Iterator<Item = &str>) {
    let mut keys = path.split(['.', '[', ']']).filter(|key| !key.is_empty());
    (keys.next(), keys)
}

/// Takes out what `find` finds, or the whole list that it is an entry of, since the numbers of the other entries are to stay.
/// Whether there was anything to take out.
pub(super) fn take_out(table: &mut Table, path: &str) -> bool {
    let path = if path.ends_with(']') { &path[..path.rfind('[').unwrap_or(0)] } else { path };
    let (above, key) = path.rsplit_once('.').unwrap_or(("", path));
    let above = if above.is_empty() { Some(table) } else { find_mut(table, above).and_then(Value::as_table_mut) };
    above.is_some_and(|above| above.remove(key).is_some())
}
