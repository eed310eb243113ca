//! Images are uploaded as they are: the bytes go to a file of this process', and `control` makes an image of it when they are all there.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::image::Image;
use api::{Error, Reason};
use axum::body::Body;
use axum::extract::{Path as Named, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::answer::{Answer, Refusal};
use super::control::Control;
use crate::control::images::INCOMING;
use crate::operation::Operation;

/// What stays free of the file system for the node itself.
const RESERVE: u64 = 64 << 20;
/// Bytes between two looks at how much is free.
const STEP: u64 = 16 << 20;
/// Who sends nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Uploads an image
///
/// The body is the file. Nothing is there by that name before all of it has come; an upload that ends early leaves nothing.
#[utoipa::path(
    put,
    path = "/v1/images/{image}",
    tag = "images",
    params(("image" = String, Path, description = "Its name: letters, digits, -, _ and .")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is there", body = Image),
        (status = "default", description = "A refusal", body = Error),
    ),
)]
pub(super) async fn upload(
    State(control): State<Control>,
    Named(image): Named<String>,
    body: Body,
) -> Result<Answer, Refusal> {
    // Before gigabytes are sent for nothing.
    let images: Vec<Image> = serde_json::from_value(control.ask(Operation::Images).await?)
        .map_err(|error| Error::new(Reason::Failed, error))?;
    if images.iter().any(|known| known.name == image) {
        return Err(Error::new(Reason::NameTaken, format!("there is an image with the name {image}"))
            .next("choose another name, or delete that one first: `basalt image delete`")
            .into());
    }
    let file = format!("upload-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(INCOMING).join(&file);
    let uploaded = match receive(&path, body).await {
        Ok(()) => control.ask(Operation::AddImage { image, file }).await,
        Err(error) => Err(error),
    };
    if uploaded.is_err() {
        let _ = fs::remove_file(&path).await;
    }
    Ok(Answer(StatusCode::CREATED, uploaded?))
}

async fn receive(path: &Path, body: Body) -> Result<(), Error> {
    let mut file = File::create(path).await?;
    let (mut stream, mut since) = (body.into_data_stream(), STEP);
    loop {
        let next = timeout(PATIENCE, stream.next()).await.map_err(|_| {
            Error::new(Reason::TooSlow, format!("nothing more has come for {} s", PATIENCE.as_secs()))
        })?;
        let Some(piece) = next else { break };
        let piece =
            piece.map_err(|error| Error::new(Reason::Invalid, format!("the upload ended early: {error}")))?;
        since += piece.len() as u64;
        if since >= STEP {
            since = 0;
            has_room(path)?;
        }
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    file.sync_all().await?;
    Ok(())
}

fn has_room(path: &Path) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(path).map_err(std::io::Error::from)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= RESERVE + STEP {
        return Ok(());
    }
    Err(Error::new(Reason::NoRoom, format!("only {} MiB are free on the node's data", free >> 20))
        .next("delete what nobody needs: `basalt image list`, `basalt vm list`"))
}
