//! What may be written, made from the structs: names, kinds, bounds, documentation, defaults.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use weir_document::Schema;
use weir_document::shape::{Defaults, Names, Shape, of_schema_with};
use weir_meta::limits::{Limits, Tier};

use super::settings::Config;

/// The section that is described once for all tiers.
pub(super) const TIERS: &str = "tiers";

/// What a configuration must look like.
pub(super) fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> =
        LazyLock::new(|| Schema { root: make(), noun: "a configuration", unsuggested: &[TIERS] });
    &SCHEMA
}

/// The whole configuration.
pub(super) fn root() -> &'static Shape {
    &schema().root
}

fn make() -> Shape {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>();
    // JSON objects here have no order; the text of the defaults has the order of the structs.
    let defaults = serde_json::to_string(&Config::default()).unwrap_or_default();
    let order: Vec<&str> = Tier::ALL.map(Tier::as_str).into_iter().chain(Limits::NAMES.iter().copied()).collect();
    let mut root = of_schema_with(schema.as_value(), Defaults { text: &defaults, order: &order });
    fill_tiers(&mut root);
    root
}

/// What the schema cannot know of the tiers: a limit without an override has its tier's default, and
/// the one map among them has streams as names.
fn fill_tiers(root: &mut Shape) {
    for tier in Tier::ALL {
        let Ok(limits) = serde_json::to_value(Limits::of_tier(tier)) else { continue };
        let Some(Shape::Section(fields)) = section_mut(root, TIERS).and_then(|tiers| section_mut(tiers, tier.as_str()))
        else {
            continue;
        };
        for field in fields {
            field.default = limits.get(&field.name).cloned().unwrap_or(Json::Null);
            if let Shape::Map { names, .. } = &mut field.shape {
                *names = Names::Stream;
            }
        }
    }
}

fn section_mut<'a>(shape: &'a mut Shape, name: &str) -> Option<&'a mut Shape> {
    let Shape::Section(fields) = shape else { return None };
    fields.iter_mut().find(|field| field.name == name).map(|field| &mut field.shape)
}
