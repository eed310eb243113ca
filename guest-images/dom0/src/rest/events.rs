//! What happens, as it happens: server-sent events (WHATWG HTML, "Server-sent events").

use std::convert::Infallible;
use std::time::Duration;

use api::event::{Event, What};
use axum::extract::State;
use axum::response::sse;
use axum::response::{IntoResponse, Sse};
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;

use super::control::Control;
use crate::clock;

/// A connection over which nothing is said for so long is told that it lives.
const ALIVE: Duration = Duration::from_secs(20);

/// Tells what happens
///
/// A stream of server-sent events, each an `Event`. Who does not read in time is told how many were lost.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "node",
    responses((status = 200, description = "Events follow", body = Event, content_type = "text/event-stream")),
)]
pub(super) async fn listen(State(control): State<Control>) -> impl IntoResponse {
    let events = unfold(control.events(), |mut events| async {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(count)) => {
                Event { number: 0, time: clock::seconds(), what: What::Lost { count } }
            }
            Err(RecvError::Closed) => return None,
        };
        let text = serde_json::to_string(&event).unwrap_or_default();
        Some((Ok::<_, Infallible>(sse::Event::default().id(event.number.to_string()).data(text)), events))
    });
    Sse::new(events).keep_alive(sse::KeepAlive::new().interval(ALIVE))
}
