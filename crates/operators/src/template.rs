//! Texts with expressions in them: `${service}-${date}`.
//!
//! A text is a template if it has `${` in a place that is no text of SQL. Then everything but what stands in
//! `${...}` is taken as it is; `$${` stands for `${`. So does `${env:` and `${file:`: what is put into a document is in it
//! before a step is made, and what still stands there then was written as `$${env:`.

/// What stands for itself once a document was read.
const FILLS: [&str; 2] = ["${env:", "${file:"];

/// The SQL expression that is the same as a template; `None` if the text is none.
pub(crate) fn expression(text: &str) -> Result<Option<String>, String> {
    if !is_template(text) {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            plain.push_str(before);
            plain.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        plain.push_str(&rest[..at]);
        if let Some(kind) = FILLS.into_iter().find(|kind| rest[at..].starts_with(kind)) {
            plain.push_str(kind);
            rest = &rest[at + kind.len()..];
            continue;
        }
        let inside = &rest[at + 2..];
        let end = end_of(inside).ok_or("there is a `${` without its `}`")?;
        if inside[..end].trim().is_empty() {
            return Err("there is nothing between `${` and `}`".to_owned());
        }
        parts.extend(literal(&mut plain));
        parts.push(format!("cast(({}) as varchar)", &inside[..end]));
        rest = &inside[end + 1..];
    }
    plain.push_str(rest);
    parts.extend(literal(&mut plain));
    Ok(Some(format!("concat({})", parts.join(", "))))
}

fn is_template(text: &str) -> bool {
    let mut is_quoted = false;
    let mut has_quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '\'' => is_quoted = !is_quoted,
            '$' if text[at..].starts_with("${") && is_quoted => has_quoted = true,
            '$' if text[at..].starts_with("${") => return true,
            _ => {}
        }
    }
    // A quote that does not end is no text of SQL: it's an apostrophe.
    has_quoted && is_quoted
}

/// Where an expression ends: at the first `}` that is in no text and no brackets of it.
fn end_of(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

/// Plain text as a text of SQL, if there is any.
fn literal(plain: &mut String) -> Option<String> {
    let text = std::mem::take(plain);
    (!text.is_empty()).then(|| format!("'{}'", text.replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use super::expression;

    #[test]
    fn templates_become_expressions() {
        let check = |text: &str, expected: Result<Option<&str>, &str>| {
            let actual = expression(text);
            let actual = actual.as_ref().map(Option::as_deref).map_err(String::as_str);
            assert_eq!(actual, expected, "{text}");
        };
        check("a || '${b}'", Ok(None));
        check("upper(a)", Ok(None));
        check("${a}", Ok(Some("concat(cast((a) as varchar))")));
        check("${a}-${b + 1}", Ok(Some("concat(cast((a) as varchar), '-', cast((b + 1) as varchar))")));
        check("it's ${a}", Ok(Some("concat('it''s ', cast((a) as varchar))")));
        check("$${a} ${a}", Ok(Some("concat('${a} ', cast((a) as varchar))")));
        check("${env:HOME} of ${a}", Ok(Some("concat('${env:HOME} of ', cast((a) as varchar))")));
        check("$${file:x}", Ok(Some("concat('${file:x}')")));
        check("${replace(a, '}', '{')}!", Ok(Some("concat(cast((replace(a, '}', '{')) as varchar), '!')")));
        check("${a", Err("there is a `${` without its `}`"));
        check("x${ }", Err("there is nothing between `${` and `}`"));
    }
}
