//! A VM's console over a WebSocket (RFC 6455): what the VM says comes as binary messages, what is sent is typed.

use api::name::Name;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::answer::{Named, Refusal};
use super::control::console;

/// Bytes of a message at most, in both directions.
const MOST: usize = 16 << 10;

/// Opens a VM's console
///
/// A WebSocket: what the VM writes comes as binary messages, what is sent is typed. The last 16 KiB of what it has written come first. It is closed when
/// the VM has stopped.
#[utoipa::path(
    get,
    path = "/v1/vms/{vm}/console",
    tag = "vms",
    params(("vm" = Name, Path, description = "The VM")),
    responses(
        (status = 101, description = "The console follows"),
        (status = "default", description = "A refusal", body = api::Error),
    ),
)]
pub(super) async fn open(Named(vm): Named<Name>, upgrade: WebSocketUpgrade) -> Result<Response, Refusal> {
    let (reader, writer) = console(vm).await?;
    Ok(upgrade.max_message_size(MOST).on_upgrade(|socket| connect(socket, reader, writer)))
}

async fn connect(mut socket: WebSocket, mut reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf) {
    let mut bytes = vec![0; MOST];
    loop {
        tokio::select! {
            said = reader.read(&mut bytes) => {
                let Some(said) = said.ok().and_then(|count| bytes.get(..count)).filter(|said| !said.is_empty()) else { break };
                if socket.send(Message::Binary(said.to_vec().into())).await.is_err() {
                    return;
                }
            }
            typed = socket.recv() => {
                let typed = match typed {
                    Some(Ok(Message::Binary(typed))) => typed,
                    Some(Ok(Message::Text(typed))) => typed.into(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                if writer.write_all(&typed).await.is_err() {
                    break;
                }
            }
        }
    }
    // Who is gone is not told.
    let _ = socket.send(Message::Close(None)).await;
}
