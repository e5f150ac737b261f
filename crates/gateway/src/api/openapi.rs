//! The description of the API for programs, kept beside the code and reviewed with it.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{event_stream, findings, images, operations, resources};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice",
        description = "Resources, tags and images of a Sluice installation.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        resources::list,
        resources::show,
        resources::apply,
        resources::remove,
        operations::status,
        operations::poll,
        event_stream::follow,
        images::tags,
        images::show,
        findings::show,
        findings::search,
    ),
    modifiers(&Token),
    security(("token" = []))
)]
struct Document;

/// Adds that every call carries the token of the installation.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The token in the file of `api.token_file`."));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// Shows the document.
pub(super) async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_document_is_the_one_that_was_reviewed() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let written = Document::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &written).unwrap();
        }
        let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == reviewed,
            "the API changed: run `UPDATE=1 cargo test -p sluice-gateway openapi` and look at the difference"
        );
    }
}
