//! The document of the API in docs/ is what the code says.

#[test]
fn the_document_in_docs_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let is = adit_controlplane::api::document::json();
    if std::env::var_os("ADIT_WRITE_DOCS").is_some() {
        std::fs::write(path, &is).unwrap();
    }
    let was = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        was == is,
        "docs/openapi.json is not that of the code: run ADIT_WRITE_DOCS=1 cargo test -p adit-controlplane --test openapi"
    );
}
