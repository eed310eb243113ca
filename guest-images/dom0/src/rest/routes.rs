//! What can be asked, where: each with what its documentation says.

use std::time::Duration;

use api::access::{MadeToken, NewToken, Token};
use api::image::Image;
use api::name::Name;
use api::node::{Node, Power};
use api::status::{Vm, VmDetails};
use api::task::Task;
use api::usage::Usage;
use api::vm::VmFile;
use api::{Error, Reason};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use serde::Deserialize;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Answer, Json, Named, Refusal, Words};
use super::auth::{Refusals, guard};
use super::control::Control;
use super::{console, events, images, metrics};
use crate::operation::{Act, Operation};

/// Bytes of a body that is no image.
const MOST_BYTES: usize = 256 << 10;
/// A body of which nothing comes for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a log, where nothing is said.
const LOG: usize = 64 << 10;

type Answered = Result<Answer, Refusal>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Basalt node",
        description = "VMs, images, access and counters of a node. Every operation is done, was done already, or is refused by name and has changed nothing."
    ),
    tags(
        (name = "vms", description = "VMs, which are folders"),
        (name = "images", description = "Files that disks and VMs are made of"),
        (name = "node", description = "The node itself"),
        (name = "access", description = "Tokens"),
    ),
    modifiers(&Secured),
)]
struct Documentation;

/// All of it wants a token.
struct Secured;

impl utoipa::Modify for Secured {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", bearer);
        openapi.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// All that can be asked.
pub(super) fn router(control: Control) -> Router {
    let (router, _) = documented().split_for_parts();
    let guard = middleware::from_fn_with_state((control.clone(), Refusals::default()), guard);
    router
        .route("/v1/openapi.json", get(|| async { axum::Json(openapi()) }))
        .fallback(nothing)
        .method_not_allowed_fallback(no_such_method)
        .layer(RequestBodyTimeoutLayer::new(PATIENCE))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(guard)
        .with_state(control)
}

/// The description of all of it.
fn openapi() -> utoipa::openapi::OpenApi {
    documented().split_for_parts().1
}

fn documented() -> OpenApiRouter<Control> {
    OpenApiRouter::with_openapi(Documentation::openapi())
        .routes(routes!(list_vms, create_vm))
        .routes(routes!(show_vm, change_vm, delete_vm))
        .routes(routes!(act))
        .routes(routes!(vm_log))
        .routes(routes!(console::open))
        .routes(routes!(show_node))
        .routes(routes!(node_log))
        .routes(routes!(power))
        .routes(routes!(usage))
        .routes(routes!(list_tasks))
        .routes(routes!(show_task))
        .routes(routes!(events::listen))
        .routes(routes!(metrics::tell))
        .routes(routes!(list_images))
        .routes(routes!(images::upload, delete_image))
        .routes(routes!(list_tokens, make_token))
        .routes(routes!(delete_token))
}

async fn nothing(uri: Uri) -> Refusal {
    Refusal(
        Error::new(Reason::NotFound, format!("there is nothing at {}", uri.path()))
            .next("/v1/openapi.json says what there is"),
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let error =
        Error::new(Reason::Invalid, format!("{method} is nothing that can be done to {}", uri.path()))
            .next("/v1/openapi.json says what can be done");
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(error)).into_response()
}

async fn ask(control: &Control, status: StatusCode, operation: Operation) -> Answered {
    Ok(Answer(status, control.ask(operation).await?))
}

/// Lists all VMs
#[utoipa::path(get, path = "/v1/vms", tag = "vms", responses(
    (status = 200, body = Vec<Vm>, description = "All of them, in the order of their names"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn list_vms(State(control): State<Control>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Vms).await
}

/// A VM that is to be made.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewVm {
    /// Its name.
    name: Name,
    /// What is to stand in its `vm.toml`.
    description: VmFile,
}

/// Makes a VM
///
/// It does not run then. The same once more changes nothing.
#[utoipa::path(post, path = "/v1/vms", tag = "vms", request_body = NewVm, responses(
    (status = 201, body = VmDetails, description = "It is there"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn create_vm(State(control): State<Control>, Json(new): Json<NewVm>) -> Answered {
    let operation = Operation::CreateVm { vm: new.name, file: Box::new(new.description) };
    ask(&control, StatusCode::CREATED, operation).await
}

/// Shows a VM
#[utoipa::path(get, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = Name, Path)), responses(
    (status = 200, body = VmDetails, description = "All that is known of it"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn show_vm(State(control): State<Control>, Named(vm): Named<Name>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Vm { vm }).await
}

/// Describes a VM anew
///
/// What runs goes on as it is, and has it from its next start on. Its identity stays, where the description has none.
#[utoipa::path(put, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = Name, Path)), request_body = VmFile, responses(
    (status = 200, body = VmDetails, description = "It is described so"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn change_vm(
    State(control): State<Control>,
    Named(vm): Named<Name>,
    Json(file): Json<VmFile>,
) -> Answered {
    ask(&control, StatusCode::OK, Operation::ChangeVm { vm, file: Box::new(file) }).await
}

/// Deletes a VM
///
/// With its disks and logs. It has to be stopped.
#[utoipa::path(delete, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = Name, Path)), responses(
    (status = 202, body = Task, description = "It is gone; its files are being deleted"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn delete_vm(State(control): State<Control>, Named(vm): Named<Name>) -> Answered {
    ask(&control, StatusCode::ACCEPTED, Operation::DeleteVm { vm }).await
}

/// Starts, shuts down, stops, resets, pauses or resumes a VM
///
/// `start` makes it and lets it begin, `shutdown` presses its power button, `stop` ends it at once, `reset` lets it begin anew at once, `pause` lets it
/// stand still and `resume` go on. What is so already is done at once. `shutdown` and `stop` are over when the VM has ended.
#[utoipa::path(post, path = "/v1/vms/{vm}/{act}", tag = "vms", params(
    ("vm" = Name, Path),
    ("act" = Act, Path),
), responses(
    (status = 202, body = Task, description = "It goes on as this task, or is over"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn act(
    State(control): State<Control>,
    axum::extract::Path((vm, act)): axum::extract::Path<(String, String)>,
) -> Answered {
    let vm: Name = vm.parse().map_err(|error| Error::new(Reason::Invalid, error))?;
    let known = serde_json::from_value(serde_json::Value::String(act.clone()));
    let act = known.map_err(|_| {
        Error::new(Reason::NotFound, format!("'{}' is nothing that is done to a VM", act.escape_debug()))
            .next("it is one of start, shutdown, stop, reset, pause, resume")
    })?;
    ask(&control, StatusCode::ACCEPTED, Operation::Act { vm, act }).await
}

/// How much of a log.
#[derive(Deserialize, utoipa::IntoParams)]
struct HowMuch {
    /// Bytes, from the end on; 64 KiB without it, 256 KiB at most.
    bytes: Option<usize>,
}

/// Shows what a VM has written to its console last
#[utoipa::path(get, path = "/v1/vms/{vm}/log", tag = "vms", params(("vm" = Name, Path), HowMuch), responses(
    (status = 200, body = String, description = "Text, as JSON"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn vm_log(
    State(control): State<Control>,
    Named(vm): Named<Name>,
    Words(much): Words<HowMuch>,
) -> Answered {
    ask(&control, StatusCode::OK, Operation::VmLog { vm, bytes: much.bytes.unwrap_or(LOG) }).await
}

/// Shows the node
#[utoipa::path(get, path = "/v1/node", tag = "node", responses(
    (status = 200, body = Node, description = "What it is and how it is"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn show_node(State(control): State<Control>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Node).await
}

/// Shows the end of the node's log
#[utoipa::path(get, path = "/v1/node/log", tag = "node", params(HowMuch), responses(
    (status = 200, body = String, description = "Text, as JSON"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn node_log(State(control): State<Control>, Words(much): Words<HowMuch>) -> Answered {
    ask(&control, StatusCode::OK, Operation::NodeLog { bytes: much.bytes.unwrap_or(LOG) }).await
}

/// Switches the node off, or restarts it
///
/// Its VMs are shut down before.
#[utoipa::path(post, path = "/v1/node/power", tag = "node", request_body = Power, responses(
    (status = 204, description = "It goes on by itself"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn power(State(control): State<Control>, Json(power): Json<Power>) -> Answered {
    ask(&control, StatusCode::ACCEPTED, Operation::Power { power }).await
}

/// Which hours.
#[derive(Deserialize, utoipa::IntoParams)]
struct Hours {
    /// From that time on, in seconds since 1970; the beginning without it.
    since: Option<u64>,
    /// Up to that time; now without it.
    until: Option<u64>,
}

/// Tells what VMs have used, hour by hour
#[utoipa::path(get, path = "/v1/usage", tag = "node", params(Hours), responses(
    (status = 200, body = Vec<Usage>, description = "A record for each VM and hour, with this hour's so far"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn usage(State(control): State<Control>, Words(hours): Words<Hours>) -> Answered {
    let (since, until) = (hours.since.unwrap_or(0), hours.until.unwrap_or(u64::MAX));
    ask(&control, StatusCode::OK, Operation::Usage { since, until }).await
}

/// Lists what takes long
#[utoipa::path(get, path = "/v1/tasks", tag = "node", responses(
    (status = 200, body = Vec<Task>, description = "Those that go on, and the last ones that are over"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn list_tasks(State(control): State<Control>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Tasks).await
}

/// Shows how a task stands
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "node", params(("id" = u64, Path)), responses(
    (status = 200, body = Task, description = "How it stands"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn show_task(State(control): State<Control>, Named(id): Named<u64>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Task { id }).await
}

/// Lists all images
#[utoipa::path(get, path = "/v1/images", tag = "images", responses(
    (status = 200, body = Vec<Image>, description = "All of them"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn list_images(State(control): State<Control>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Images).await
}

/// Deletes an image
#[utoipa::path(delete, path = "/v1/images/{image}", tag = "images", params(("image" = String, Path)), responses(
    (status = 204, description = "It is gone"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn delete_image(State(control): State<Control>, Named(image): Named<String>) -> Answered {
    ask(&control, StatusCode::OK, Operation::DeleteImage { image }).await
}

/// Lists who may ask
#[utoipa::path(get, path = "/v1/access", tag = "access", responses(
    (status = 200, body = Vec<Token>, description = "All tokens, without their secrets"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn list_tokens(State(control): State<Control>) -> Answered {
    ask(&control, StatusCode::OK, Operation::Tokens).await
}

/// Makes a token
///
/// Its secret is in the answer, and nowhere else.
#[utoipa::path(post, path = "/v1/access", tag = "access", request_body = NewToken, responses(
    (status = 201, body = MadeToken, description = "It is good from now on"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn make_token(State(control): State<Control>, Json(token): Json<NewToken>) -> Answered {
    ask(&control, StatusCode::CREATED, Operation::MakeToken { token }).await
}

/// Deletes a token
#[utoipa::path(delete, path = "/v1/access/{token}", tag = "access", params(("token" = Name, Path)), responses(
    (status = 204, description = "It is good for nothing any more"),
    (status = "default", description = "A refusal", body = Error),
))]
async fn delete_token(State(control): State<Control>, Named(token): Named<Name>) -> Answered {
    ask(&control, StatusCode::OK, Operation::DeleteToken { token }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file is for people and programs that have no node at hand. `BASALT_WRITE_DOCS=1` writes it anew.
    #[test]
    fn the_description_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let text = format!("{}\n", openapi().to_pretty_json().expect("it can be written"));
        if std::env::var_os("BASALT_WRITE_DOCS").is_some() {
            std::fs::write(path, &text).expect("it can be written");
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == text, "docs/openapi.json is old: run this test with BASALT_WRITE_DOCS=1");
    }

    #[test]
    fn all_keys_of_a_vm_are_in_its_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vm-toml.md"));
        let (page, openapi) = (page.expect("it is there"), serde_json::to_value(openapi()).expect("JSON"));
        for kind in ["VmFile", "Disk", "CloudInit", "User"] {
            let keys = openapi["components"]["schemas"][kind]["properties"].as_object().expect("an object");
            for key in keys.keys() {
                let is_told =
                    page.lines().any(|line| line.starts_with('|') && line.contains(&format!("{key}`")));
                assert!(is_told || key == "disks", "docs/vm-toml.md does not say what `{key}` of {kind} is");
            }
        }
    }
}
