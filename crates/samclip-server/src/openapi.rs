//! The OpenAPI document, made from the table of routes, the table of errors and the request types.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
    schema::Schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{ErrorBody, Kind};
use crate::protocols::{cvat, label_studio, osam, x_anylabeling};
use crate::routes::{Access, ROUTES, Route};
use crate::wire;

/// The document as text.
pub fn document_json() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| document().to_json().unwrap_or_default())
}

/// The document.
pub fn document() -> OpenApi {
    let paths = ROUTES.iter().fold(PathsBuilder::new(), |paths, route| {
        let method = if route.method == "get" { HttpMethod::Get } else { HttpMethod::Post };
        paths.path(route.path.replace("{*path}", "{path}"), PathItem::new(method, operation(route)))
    });
    let about = "Masks for prompts, everything, names and classes. Coordinates are pixels of the original image.";
    let info = InfoBuilder::new().title("samclip").version(env!("CARGO_PKG_VERSION")).description(Some(about));
    let key = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = ComponentsBuilder::new().schemas_from_iter(schemas()).security_scheme("key", key);
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components.build())).build()
}

fn schemas() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![];
    add::<ErrorBody>(&mut schemas);
    add::<wire::EmbedRequest>(&mut schemas);
    add::<wire::SegmentRequest>(&mut schemas);
    add::<wire::EverythingRequest>(&mut schemas);
    add::<wire::ClassifyRequest>(&mut schemas);
    add::<wire::LocateRequest>(&mut schemas);
    add::<wire::LabelRequest>(&mut schemas);
    add::<x_anylabeling::XAnyLabelingRequest>(&mut schemas);
    add::<osam::OsamRequest>(&mut schemas);
    add::<label_studio::LabelStudioSetup>(&mut schemas);
    add::<label_studio::LabelStudioPredict>(&mut schemas);
    add::<label_studio::LabelStudioWebhook>(&mut schemas);
    add::<cvat::CvatRequest>(&mut schemas);
    schemas
}

fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn operation(route: &Route) -> Operation {
    let ok = ResponseBuilder::new().description("the answer").build();
    let mut operation = OperationBuilder::new().summary(Some(route.about)).response("200", ok);
    for (code, kinds) in codes(route) {
        let text: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.name(), kind.about())).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let response = ResponseBuilder::new().description(text.join(" ")).content("application/json", content);
        operation = operation.response(code.to_string(), response.build());
    }
    if let Some(schema) = route.body {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let body = RequestBodyBuilder::new().required(Some(Required::True)).content("application/json", content);
        operation = operation.request_body(Some(body.build()));
    }
    for name in ["path", "name"].into_iter().filter(|name| route.path.contains(&format!("{name}}}"))) {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(parameter.build());
    }
    if route.access == Access::Key {
        operation = operation.security(SecurityRequirement::new("key", Vec::<String>::new()));
    }
    operation.build()
}

/// Every code that a route may answer with, and the kinds behind it.
pub fn codes(route: &Route) -> BTreeMap<u16, Vec<Kind>> {
    let key = (route.access == Access::Key).then_some(Kind::Unauthorized);
    let mut codes: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    for kind in route.kinds.concat().into_iter().chain(key).chain([Kind::MethodNotAllowed]) {
        codes.entry(kind.status().as_u16()).or_default().push(kind);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_and_every_reference_is_there() {
        let json: serde_json::Value = serde_json::from_str(document_json()).unwrap();
        for route in ROUTES {
            let path = route.path.replace("{*path}", "{path}");
            let operation = &json["paths"][&path][route.method];
            for (code, kinds) in codes(route) {
                let text = operation["responses"][code.to_string()]["description"].as_str().unwrap();
                assert!(kinds.iter().all(|kind| text.contains(kind.name())), "{path} {code}: {text}");
            }
        }
        let text = document_json();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(json["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
