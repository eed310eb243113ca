//! The way to the process that sees to VMs: one connection for calls, answers and events, which is opened again when that process was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::event::Event;
use api::{Error, Reason};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::operation::{Call, Greeting, Known, Operation, SOCKET, Told};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach it.
const AGAIN: Duration = Duration::from_millis(500);
/// Calls that wait to be sent.
const CALLS: usize = 256;
/// Events that a listener may be behind.
const EVENTS: usize = 256;

type Result<T> = std::result::Result<T, Error>;

/// The way. Copies of it are the same way.
#[derive(Clone)]
pub(super) struct Control {
    calls: mpsc::Sender<(Operation, oneshot::Sender<Result<Value>>)>,
    events: broadcast::Sender<Event>,
    tokens: watch::Receiver<Arc<Vec<Known>>>,
}

impl Control {
    /// Opens it, in the background.
    pub(super) fn open() -> Self {
        let (calls, waiting) = mpsc::channel(CALLS);
        let (events, _) = broadcast::channel(EVENTS);
        let (known, tokens) = watch::channel(Arc::default());
        tokio::spawn(go(waiting, events.clone(), known));
        Self { calls, events, tokens }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// What is refused; nobody answers.
    pub(super) async fn ask(&self, operation: Operation) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let silent = || {
            Error::new(Reason::Unavailable, "the process that sees to VMs does not answer")
                .next("it is started again by itself; try again in a moment")
        };
        self.calls.try_send((operation, answer)).map_err(|_| silent())?;
        timeout(PATIENCE, answered).await.map_err(|_| silent())?.map_err(|_| silent())?
    }

    /// What happens from here on.
    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Who may ask.
    pub(super) fn tokens(&self) -> Arc<Vec<Known>> {
        self.tokens.borrow().clone()
    }
}

/// Keeps the connection.
async fn go(
    mut calls: mpsc::Receiver<(Operation, oneshot::Sender<Result<Value>>)>,
    events: broadcast::Sender<Event>,
    known: watch::Sender<Arc<Vec<Known>>>,
) {
    loop {
        if let Ok(stream) = UnixStream::connect(SOCKET).await {
            // However that ends, it begins anew. Who waits for an answer is told that there is none.
            let _ = talk(stream, &mut calls, &events, &known).await;
        }
        while let Ok((_, answer)) = calls.try_recv() {
            drop(answer);
        }
        sleep(AGAIN).await;
    }
}

async fn talk(
    stream: UnixStream,
    calls: &mut mpsc::Receiver<(Operation, oneshot::Sender<Result<Value>>)>,
    events: &broadcast::Sender<Event>,
    known: &watch::Sender<Arc<Vec<Known>>>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    writer.write_all(&line(&Greeting::Calls)?).await?;
    let mut lines = BufReader::new(reader).lines();
    let mut waiting = HashMap::new();
    let mut last = 0;
    loop {
        tokio::select! {
            call = calls.recv() => {
                let Some((operation, answer)) = call else { return Ok(()) };
                last += 1;
                waiting.insert(last, answer);
                writer.write_all(&line(&Call { id: last, operation })?).await?;
            }
            text = lines.next_line() => {
                let Some(text) = text? else { return Ok(()) };
                match serde_json::from_str(&text)? {
                    Told::Answer { id, result } => {
                        let waits: Option<oneshot::Sender<Result<Value>>> = waiting.remove(&id);
                        // Whoever has asked may be gone.
                        waits.map(|answer| answer.send(result));
                    }
                    Told::Event { event } => _ = events.send(event),
                    Told::Access { tokens } => _ = known.send(Arc::new(tokens)),
                }
            }
        }
    }
}

fn line(what: &impl serde::Serialize) -> std::io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(what)?;
    text.push(b'\n');
    Ok(text)
}

/// A connection of its own to a VM's console: its bytes follow.
///
/// # Errors
/// There is no such VM that runs; nobody answers.
pub(super) async fn console(
    vm: api::name::Name,
) -> Result<(BufReader<OwnedReadHalf>, tokio::net::unix::OwnedWriteHalf)> {
    let stream = UnixStream::connect(SOCKET).await.map_err(|error| Error::new(Reason::Unavailable, error))?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(&line(&Greeting::Console { vm })?).await?;
    let (mut reader, mut text) = (BufReader::new(reader), String::new());
    timeout(PATIENCE, reader.read_line(&mut text))
        .await
        .map_err(|error| Error::new(Reason::Unavailable, error))??;
    match serde_json::from_str(&text).map_err(|error| Error::new(Reason::Unavailable, error))? {
        Told::Answer { result: Ok(_), .. } => Ok((reader, writer)),
        Told::Answer { result: Err(error), .. } => Err(error),
        _ => Err(Error::new(Reason::Failed, "the process that sees to VMs says what nobody asked")),
    }
}
