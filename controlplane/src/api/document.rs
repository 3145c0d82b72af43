//! The OpenAPI document of the API, made from the handlers and types themselves; docs/openapi.json is a copy that a test compares.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, openapi};

use super::peers;

/// Everything under `/v1`, and the metrics.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Adit",
        description = "The API of an Adit gateway, over its Unix socket, or over TCP with a token. Every error is JSON; but what is no \
            request of HTTP/1.1, or has a line or a header that is too long, is answered with 400, 414 or 431 and no body."
    ),
    paths(
        super::live,
        super::health,
        super::document,
        super::status,
        super::peer_list,
        super::one_peer,
        peers::reload,
        peers::stop,
        peers::connect,
        peers::disconnect,
        peers::rekey,
        peers::rekey_ike,
        peers::explain,
        super::metrics_page
    ),
    security(("token" = [])),
    modifiers(&Everywhere)
)]
struct Document;

/// What holds of every request: over TCP it needs the token, and every error is JSON.
struct Everywhere;

/// Errors that any request can get, by status.
const ERRORS: [(&str, &str, &str); 5] = [
    ("400", "BadRequest", "The request cannot be understood"),
    ("401", "Unauthorized", "Over TCP, without the token"),
    ("404", "NotFound", "There is nothing of this name"),
    ("405", "MethodNotAllowed", "The path is there, but not with this method"),
    ("421", "MisdirectedRequest", "Over TCP, for a name that is not the gateway's: see http_names"),
];

impl Modify for Everywhere {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Components::new);
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The content of api.token_file")).build();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        for (_, name, description) in ERRORS {
            components.responses.insert(name.to_owned(), error(description).into());
        }
        for (path, item) in &mut document.paths.paths {
            let operations = [&mut item.get, &mut item.post].into_iter().flatten();
            for operation in operations {
                let named = path.contains('{');
                for (status, name, _) in ERRORS.iter().filter(|(status, ..)| *status != "404" || named) {
                    let shared = RefOr::Ref(Ref::from_response_name(*name));
                    operation.responses.responses.entry((*status).to_owned()).or_insert(shared);
                }
            }
        }
    }
}

fn error(description: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Outcome"))).build();
    ResponseBuilder::new().description(description).content("application/json", body).build()
}

/// The document as JSON.
pub fn json() -> String {
    let text = Document::openapi().to_pretty_json().expect("a structure of strings and numbers can always be written as JSON");
    text + "\n"
}
