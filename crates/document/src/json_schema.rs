//! From a shape to a JSON schema, for editors: it accepts what the check accepts, save references from
//! one part of a document to another.

use serde_json::{Map, Value as Json, json};

use crate::shape::{Field, Format, Names, Shape};

impl Shape {
    /// The JSON schema of it.
    pub fn json_schema(&self) -> Json {
        match self {
            Self::Section(fields) => section(fields.iter(), &[]),
            Self::Tagged { tags, others, .. } => section(tags.iter().chain(others), tags),
            Self::Bool => or_filled(json!({ "type": "boolean" })),
            Self::Integer { min, max } => {
                let mut schema = json!({ "type": "integer" });
                if let (Some(schema), Ok(min)) = (schema.as_object_mut(), i64::try_from(*min))
                    && min > i64::MIN
                {
                    schema.insert("minimum".to_owned(), json!(min));
                }
                if let (Some(schema), Ok(max)) = (schema.as_object_mut(), i64::try_from(*max))
                    && max < i64::MAX
                {
                    schema.insert("maximum".to_owned(), json!(max));
                }
                or_filled(schema)
            }
            Self::Number { .. } => or_filled(json!({ "type": "number" })),
            Self::Size { .. } => json!({ "type": ["string", "integer"], "examples": ["32MiB"] }),
            Self::Span { .. } => json!({ "type": ["string", "integer"], "examples": ["10s"] }),
            Self::Text(Format::Expression) => json!({ "type": ["string", "number", "boolean"] }),
            Self::Text(Format::Name(most)) => {
                let pattern = format!("^[a-z][a-z0-9_]{{0,{}}}$|^.*\\$\\{{", most.saturating_sub(1));
                json!({ "type": "string", "pattern": pattern })
            }
            Self::Text(_) => json!({ "type": "string" }),
            Self::Choice(words) => {
                let variants: Vec<Json> = words
                    .iter()
                    .map(|(word, doc)| match doc.is_empty() {
                        true => json!({ "const": word }),
                        false => json!({ "const": word, "description": doc }),
                    })
                    .collect();
                or_filled(json!({ "oneOf": variants }))
            }
            Self::List(items) => or_filled(json!({ "type": "array", "items": items.json_schema() })),
            Self::Map { names, values } => {
                let names = match names {
                    Names::Any => json!({ "minLength": 1 }),
                    Names::Stream => json!({ "pattern": "^[a-z_][a-z0-9_]{0,63}$" }),
                };
                json!({ "type": "object", "propertyNames": names, "additionalProperties": values.json_schema() })
            }
            Self::Expressions => json!({
                "type": "object",
                "propertyNames": { "minLength": 1 },
                "additionalProperties": Self::Text(Format::Expression).json_schema(),
            }),
            Self::Either(shapes) => {
                json!({ "anyOf": shapes.iter().map(Self::json_schema).collect::<Vec<_>>() })
            }
            Self::Any => json!({}),
        }
    }
}

/// What is not text may be filled in (see [`crate::fill`]).
fn or_filled(schema: Json) -> Json {
    json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{(env|file):" }] })
}

fn section<'a>(fields: impl Iterator<Item = &'a Field>, tags: &[Field]) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let is_tag = tags.iter().any(|tag| tag.name == field.name);
        let mut schema = field.shape.json_schema();
        if is_tag && matches!(field.shape, Shape::Section(_)) {
            // `console:` with nothing after it.
            schema = json!({ "anyOf": [schema, { "type": "null" }] });
        }
        if let Some(schema) = schema.as_object_mut() {
            if !field.doc.is_empty() {
                schema.insert("description".to_owned(), json!(field.doc));
            }
            if !field.default.is_null() {
                schema.insert("default".to_owned(), field.default.clone());
            }
            if let Some(example) = &field.example {
                schema.insert("examples".to_owned(), json!([example]));
            }
        }
        if field.required {
            required.push(json!(field.name));
        }
        properties.insert(field.name.clone(), schema);
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let Some(schema) = schema.as_object_mut() {
        if !required.is_empty() {
            schema.insert("required".to_owned(), Json::Array(required));
        }
        if !tags.is_empty() {
            let one: Vec<Json> = tags.iter().map(|tag| json!({ "required": [tag.name] })).collect();
            schema.insert("oneOf".to_owned(), Json::Array(one));
        }
    }
    schema
}
