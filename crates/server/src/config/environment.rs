//! Settings from environment variables: `WEIR_DATA_DIR`, `WEIR_HTTP`, `WEIR_LOG__RETENTION`.
//!
//! A name with `__` can only be meant for Weir's configuration, so one that is unknown is a problem.
//! One without may be somebody else's (Kubernetes sets `WEIR_SERVICE_HOST` for a service called weir): it is only
//! warned of, and not at all where it is known whose it is.

use weir_document::check::nearest;
use weir_document::shape::Shape;
use weir_document::tree::cut;
use weir_document::{Key, Node, Place, Problem, Value};

use super::schema::root;

const PREFIX: &str = "WEIR_";

/// The variable of a setting.
pub(super) fn variable(path: &[String]) -> String {
    // The listeners' addresses have the short names that the flags have.
    let path = match path {
        [listener, address] if address == "address" => std::slice::from_ref(listener),
        path => path,
    };
    let names: Vec<String> = path.iter().map(|name| name.to_ascii_uppercase()).collect();
    format!("{PREFIX}{}", names.join("__"))
}

/// The setting at `path` with that value, as a source of its own.
pub(super) fn assignment(place: &Place, path: &[String], value: Value) -> Node {
    let leaf = Node { place: place.clone(), value };
    path.iter().rev().fold(leaf, |node, name| Node {
        place: place.clone(),
        value: Value::Map(vec![(Key { place: place.clone(), name: name.clone() }, node)]),
    })
}

/// The sources the variables make, and the problems with their names.
pub(super) fn read(variables: impl Iterator<Item = (String, String)>, problems: &mut Vec<Problem>) -> Vec<Node> {
    let paths = root().paths();
    let mut variables: Vec<(String, String)> =
        variables.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()).collect();
    variables.sort();
    let mut sources = Vec::new();
    for (name, text) in variables {
        let place = Place::named(&name);
        let short = paths.iter().find(|path| variable(path) == name);
        let written: Vec<String> = name[PREFIX.len()..].split("__").map(|part| part.to_ascii_lowercase()).collect();
        let path = match short {
            Some(path) => path.clone(),
            None if matches!(root().find(&written), Some(Shape::Section(_)) | None) => {
                if written.len() > 1 {
                    problems.push(unknown(&place, &written, &paths));
                }
                continue;
            }
            None => written,
        };
        sources.push(assignment(&place, &path, Value::Loose(text)));
    }
    sources
}

/// The variables that look like settings, are none, and are nobody else's that is known; each with the
/// one that may be meant.
pub fn ignored(names: impl Iterator<Item = String>) -> Vec<(String, Option<String>)> {
    let paths = root().paths();
    let known: Vec<String> = paths.iter().map(|path| variable(path)).collect();
    let is_ignored = |name: &String| {
        let Some(own) = name.strip_prefix(PREFIX) else { return false };
        let written: Vec<String> = own.split("__").map(str::to_ascii_lowercase).collect();
        written.len() == 1
            && !known.contains(name)
            && !OF_COMMANDS.contains(&own)
            && !is_of_kubernetes(own)
            && matches!(root().find(&written), Some(Shape::Section(_)) | None)
    };
    let mut ignored: Vec<(String, Option<String>)> = names
        .filter(is_ignored)
        .map(|name| {
            // Mostly `_` for `__`, or one that is missing.
            let plain = |name: &str| name.replace('_', "");
            let meant = known.iter().find(|known| plain(known) == plain(&name)).cloned();
            (name, meant)
        })
        .collect();
    ignored.sort();
    ignored
}

/// What the commands read that ask a server, and `weir serve` before its configuration.
const OF_COMMANDS: [&str; 5] = ["CONFIG", "URL", "KEY", "TENANT", "CA_FILE"];

/// What Kubernetes sets for a service whose name is, or begins with, weir.
fn is_of_kubernetes(own: &str) -> bool {
    let is_port = |text: &str| text.starts_with("PORT_") || text.contains("_PORT_");
    own.ends_with("SERVICE_HOST") || own.ends_with("SERVICE_PORT") || own.ends_with("PORT") || is_port(own)
}

fn unknown(place: &Place, written: &[String], paths: &[Vec<String>]) -> Problem {
    let message = if root().find(written).is_some() {
        format!("`{}` is a section, not a setting", written.join("."))
    } else {
        format!("there is no setting `{}`", cut(&written.join(".")))
    };
    let dotted: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
    let known = nearest(&written.join("."), dotted.iter().map(String::as_str));
    let known = known.map(|known| known.split('.').map(str::to_owned).collect::<Vec<_>>());
    let hint = known.map_or_else(String::new, |path| format!("did you mean `{}`?", variable(&path)));
    Problem::new(place, message, hint)
}
