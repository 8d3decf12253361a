//! `/openapi.json`: what every route takes and answers, made from the table of routes.
//!
//! A [`Doc`] says what is particular to one route; what follows from its entry (the token, the role, the parts of the
//! path) and what any route may answer (limits, an outage) is added here, once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as Answer};
use coditect_shared::limits::{PULL_LIMIT_MAX, PULL_PAGE_BYTES, PUSH_BODY_MAX_BYTES, PUSH_RECORDS_MAX};
use coditect_shared::wire::ErrorBody;
use serde_json::json;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{
    ComponentsBuilder, KnownFormat, ObjectBuilder, Ref, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Header, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Required, Response,
    ResponseBuilder, ResponsesBuilder,
};
use utoipa::{IntoParams, PartialSchema as _, ToSchema};

use super::{Access, Route, table};
use crate::auth::{Action, Role};
use crate::limits::{HEAD_BYTES, HEAD_LINES, OPEN_REQUESTS, REQUEST_TIME};

/// Name of the security scheme.
const BEARER: &str = "bearer";

/// The document says so in a field of its own: what the role needs to allow.
const ACTION: &str = "x-action";

/// And the roles that may.
const ROLES: &str = "x-roles";

/// What is particular to one route.
#[derive(Default)]
pub(crate) struct Doc {
    summary: &'static str,
    description: Option<&'static str>,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    /// By status.
    answers: BTreeMap<u16, Response>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Doc {
    pub(crate) fn new(summary: &'static str) -> Doc {
        Doc {
            summary,
            ..Doc::default()
        }
    }

    pub(crate) fn description(mut self, text: &'static str) -> Doc {
        self.description = Some(text);
        self
    }

    /// It reads the header `X-Device-ID`.
    pub(crate) fn device(mut self) -> Doc {
        let parameter = ParameterBuilder::new()
            .name("X-Device-ID")
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some("The device that asks, by its UUID."))
            .schema(Some(uuid_schema()));
        self.parameters.push(parameter.build());
        self
    }

    /// Parameters of the query. A bad one is 422.
    pub(crate) fn query<P: IntoParams>(mut self) -> Doc {
        self.parameters
            .extend(P::into_params(|| Some(ParameterIn::Query)));
        self
    }

    /// A JSON body. One that does not fit is 422, one that is too large 413.
    pub(crate) fn body<T: ToSchema>(mut self) -> Doc {
        let reference = self.schema::<T>();
        let body = RequestBodyBuilder::new()
            .content(
                "application/json",
                ContentBuilder::new().schema(Some(reference)).build(),
            )
            .required(Some(Required::True));
        self.body = Some(body.build());
        self
    }

    /// A form's body.
    pub(crate) fn form<T: ToSchema>(mut self) -> Doc {
        let reference = self.schema::<T>();
        self.form_of(RefOr::Ref(reference))
    }

    /// A form's body that only our own pages send.
    pub(crate) fn any_form(self) -> Doc {
        let schema = ObjectBuilder::new().schema_type(Type::Object).build();
        self.form_of(RefOr::T(Schema::Object(schema)))
    }

    fn form_of(mut self, schema: RefOr<Schema>) -> Doc {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let body = RequestBodyBuilder::new().content("application/x-www-form-urlencoded", content);
        self.body = Some(body.required(Some(Required::True)).build());
        self
    }

    /// A JSON answer.
    pub(crate) fn json<T: ToSchema>(mut self, status: u16, description: &'static str) -> Doc {
        let reference = self.schema::<T>();
        self.answer(
            status,
            description,
            Some(("application/json", RefOr::Ref(reference))),
        )
    }

    /// An answer without a body.
    pub(crate) fn empty(self, status: u16, description: &'static str) -> Doc {
        self.answer(status, description, None)
    }

    /// An answer of another kind, as text.
    pub(crate) fn text(self, status: u16, media_type: &'static str, description: &'static str) -> Doc {
        let schema = ObjectBuilder::new().schema_type(Type::String).build();
        self.answer(
            status,
            description,
            Some((media_type, RefOr::T(Schema::Object(schema)))),
        )
    }

    /// JSON whose shape is somebody else's standard.
    pub(crate) fn any_json(self, status: u16, description: &'static str) -> Doc {
        let schema = ObjectBuilder::new().schema_type(Type::Object).build();
        self.answer(
            status,
            description,
            Some(("application/json", RefOr::T(Schema::Object(schema)))),
        )
    }

    /// A refusal, with the codes that it may bear.
    pub(crate) fn refuses(mut self, status: u16, description: &'static str) -> Doc {
        self.answers.insert(status, refusal(description));
        self
    }

    fn answer(
        mut self,
        status: u16,
        description: &'static str,
        content: Option<(&'static str, RefOr<Schema>)>,
    ) -> Doc {
        let mut response = ResponseBuilder::new().description(description);
        if let Some((media_type, schema)) = content {
            response = response.content(media_type, ContentBuilder::new().schema(Some(schema)).build());
        }
        self.answers.insert(status, response.build());
        self
    }

    /// Collects a type's schema and those that it mentions.
    fn schema<T: ToSchema>(&mut self) -> Ref {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        Ref::from_schema_name(name)
    }
}

/// The route `/openapi.json`.
pub(super) async fn show() -> Answer {
    static TEXT: LazyLock<String> = LazyLock::new(|| json!(document(table())).to_string());
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

pub(super) fn doc() -> Doc {
    Doc::new("This document").any_json(200, "An OpenAPI 3.1 document.")
}

fn document(routes: Vec<Route>) -> OpenApi {
    let mut schemas = BTreeMap::new();
    let mut paths = PathsBuilder::new();
    schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
    let mut mentioned = Vec::new();
    ErrorBody::schemas(&mut mentioned);
    schemas.extend(mentioned);
    for mut route in routes {
        schemas.extend(std::mem::take(&mut route.doc.schemas));
        let method = http_method(&route);
        paths = paths.path(route.path, PathItem::new(method, operation(route)));
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("An access token: `coditect-server token issue`."))
        .build();
    let info = InfoBuilder::new()
        .title("CODITECT sync server")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description()))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ));
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths.build())
        .components(Some(
            ComponentsBuilder::new()
                .schemas_from_iter(schemas)
                .security_scheme(BEARER, SecurityScheme::Http(bearer))
                .build(),
        ))
        .build()
}

/// The limits that hold for every route.
fn description() -> String {
    format!(
        "Bodies of requests and answers may be zstd or gzip (`Content-Encoding`, `Accept-Encoding`). \
         Limits: a body has at most {PUSH_BODY_MAX_BYTES} bytes, on the wire and decompressed; the head of a request at most \
         {HEAD_BYTES} bytes in {HEAD_LINES} lines; a request takes at most {} s; {OPEN_REQUESTS} requests are in work at \
         once, more are told to come back; a push has at most {PUSH_RECORDS_MAX} records; a pulled page at most \
         {PULL_LIMIT_MAX} rows, and ends after {PULL_PAGE_BYTES} bytes of text. Unknown fields and parameters are ignored. \
         Every answer has the header `x-request-id`; that of the request is taken over if it is a plain word.",
        REQUEST_TIME.as_secs()
    )
}

fn operation(route: Route) -> utoipa::openapi::path::Operation {
    let Route {
        method,
        path,
        access,
        doc,
        handler: _,
    } = route;
    let has_body = doc.body.is_some();
    let mut answers = doc.answers;
    let mut refuse = |status: u16, description: &str| {
        let said = answers.entry(status).or_insert_with(|| refusal(description));
        // A page refuses in HTML, but what keeps a request from reaching it does so in JSON.
        for (kind, content) in refusal(description).content {
            said.content.entry(kind).or_insert(content);
        }
    };
    if access != Access::Public {
        refuse(
            401,
            "`token_missing`, `token_invalid`, `token_expired`, `membership_ended` (the user is no member any more) or `device_revoked`.",
        );
        if access != Access::May(Action::Read) {
            refuse(403, "`forbidden` or `read_only`: the role does not allow this.");
        }
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect();
    if !parts.is_empty() {
        refuse(
            404,
            "`not_found`: not there, or another tenant's, which is the same to the caller.",
        );
    }
    if has_body || !parts.is_empty() || !doc.parameters.is_empty() {
        refuse(
            422,
            "`invalid_field`: `details.field` names the field, parameter or header.",
        );
    }
    if has_body {
        refuse(413, "`too_large`: `details.limit` is the limit.");
        refuse(
            415,
            "`unsupported_media_type`: the body's encoding is none that the server reads.",
        );
    }
    if access != Access::Public {
        refuse(
            429,
            "`too_many_requests`: the device or user asks too often; come back after `Retry-After`.",
        );
    }
    refuse(
        500,
        "`internal`: a fault of the server; its log has the cause under the request's id.",
    );
    refuse(
        503,
        "`unavailable` or `request_timeout`: come back after `Retry-After`.",
    );

    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(method.as_str(), path)))
        .tag(tag(path))
        .summary(Some(doc.summary))
        .description(doc.description)
        .request_body(doc.body)
        .responses(
            answers
                .into_iter()
                .fold(ResponsesBuilder::new(), |responses, (status, response)| {
                    responses.response(status.to_string(), response)
                })
                .build(),
        );
    for name in parts {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(if name.ends_with("id") {
                    uuid_schema()
                } else {
                    text_schema()
                })),
        );
    }
    for parameter in doc.parameters {
        operation = operation.parameter(parameter);
    }
    match access {
        Access::Public => operation.securities(Some([])),
        Access::May(action) | Access::Manage(action) => operation
            .security(SecurityRequirement::new::<_, [String; 0], String>(BEARER, []))
            .extensions(Some(
                Extensions::builder()
                    .add(ACTION, action.to_string())
                    .add(ROLES, roles(access))
                    .build(),
            )),
    }
    .build()
}

/// The roles that may.
fn roles(access: Access) -> Vec<&'static str> {
    let all = [Role::Owner, Role::Admin, Role::Member, Role::Viewer];
    let may = all.into_iter().filter(|role| access.check(*role).is_ok());
    may.map(Role::as_str).collect()
}

fn http_method(route: &Route) -> HttpMethod {
    match route.method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// Such as `get_context_pull`; unique, since method and path are.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.replace("/api/v1", "").replace(['{', '}'], "");
    let mut id = method.to_lowercase();
    for part in words.split(['/', '.', '-']).filter(|part| !part.is_empty()) {
        id.push('_');
        id.push_str(part);
    }
    if path.ends_with('/') {
        id.push_str("_slash");
    }
    id
}

/// The first word of the path groups the routes.
fn tag(path: &str) -> String {
    let mut parts = path.trim_start_matches("/api/v1").split('/');
    parts.find(|part| !part.is_empty()).unwrap_or("server").to_owned()
}

fn refusal(description: &str) -> Response {
    let id = Header::new(ObjectBuilder::new().schema_type(Type::String).build());
    ResponseBuilder::new()
        .description(description)
        .content(
            "application/json",
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(ErrorBody::name())))
                .build(),
        )
        .header("x-request-id", id)
        .build()
}

fn text_schema() -> RefOr<Schema> {
    RefOr::T(Schema::Object(
        ObjectBuilder::new().schema_type(Type::String).build(),
    ))
}

fn uuid_schema() -> RefOr<Schema> {
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    RefOr::T(Schema::Object(schema.build()))
}
