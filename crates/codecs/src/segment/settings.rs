//! What the browser libraries fetch before they send anything.

use serde_json::json;

/// The settings Segment's browser library fetches from `/v1/projects/{writeKey}/settings`: one
/// destination, which is this server, and nothing that makes it load or report elsewhere.
/// `api_host` is the host, and port if any, that browsers reach this server by.
pub fn settings(write_key: &str, api_host: &str, https: bool) -> String {
    let every_event = json!({"__default": {"enabled": true, "integrations": {}}});
    json!({
        "integrations": {
            "Segment.io": {
                "apiKey": write_key,
                "apiHost": format!("{api_host}/v1"),
                // Without it the library insists on https.
                "protocol": if https { "https" } else { "http" },
                "unbundledIntegrations": [],
                "addBundledMetadata": false,
                "maybeBundledConfigIds": {},
                "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
            }
        },
        "plan": {"track": every_event, "identify": every_event, "group": every_event},
        "edgeFunction": {},
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "remotePlugins": [],
        "legacyVideoPluginsEnabled": false,
        "analyticsNextEnabled": true,
        // At any other rate the library reports about itself to Segment's own servers.
        "metrics": {"sampleRate": 0, "host": format!("{api_host}/v1")},
    })
    .to_string()
}

/// The configuration RudderStack's browser library fetches from `/sourceConfig/`: an enabled source
/// without destinations in the browser and without reports about itself.
pub fn rudder_source_config(write_key: &str, data_plane_url: &str) -> String {
    json!({
        "source": {
            "id": write_key,
            "name": "weir",
            "writeKey": write_key,
            "enabled": true,
            "workspaceId": "weir",
            "config": {
                "statsCollection": {"errors": {"enabled": false}, "metrics": {"enabled": false}},
            },
            "destinations": [],
            "connections": [],
            "dataplanes": {"US": [{"url": data_plane_url, "default": true}]},
        },
        "updatedAt": "2024-01-01T00:00:00.000Z",
    })
    .to_string()
}
