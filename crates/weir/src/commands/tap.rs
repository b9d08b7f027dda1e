//! `weir tap`: rows as they pass a part of a pipeline that runs in a server.

use super::tail::follow;
use crate::cli::TapArgs;
use crate::client::{Api, path_segment};

pub(super) async fn run(args: TapArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target, args.tenant.tenant.as_deref())?;
    let (pipeline, part) = match args.place.split_once('.') {
        Some((pipeline, part)) => (pipeline, Some(part.to_owned())),
        None => (args.place.as_str(), None),
    };
    let parameters = [
        ("part", part),
        ("where", args.filter),
        ("every", args.every.map(|every| every.to_string())),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", path_segment(&value?))));
    let query = given.collect::<Vec<_>>().join("&");
    follow(&api, &format!("/api/v1/pipelines/{}/tap?{query}", path_segment(pipeline)), &args.place).await
}
