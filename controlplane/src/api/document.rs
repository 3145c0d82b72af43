//! The OpenAPI document of the API, made from the handlers and types themselves; docs/openapi.json is a copy that a test compares.

use utoipa::OpenApi;

use super::peers;

/// Everything under `/v1`.
#[derive(OpenApi)]
#[openapi(
    info(title = "Adit", description = "The API of an Adit gateway, over its Unix socket, or over TCP with a token."),
    paths(
        super::health,
        super::status,
        super::peer_list,
        peers::reload,
        peers::connect,
        peers::disconnect,
        peers::rekey,
        peers::rekey_ike,
        peers::explain
    )
)]
struct Document;

/// The document as JSON.
pub fn json() -> String {
    let text = Document::openapi().to_pretty_json().expect("a structure of strings and numbers can always be written as JSON");
    text + "\n"
}
