//! Connections: over TLS from the network, and from this machine. Each is bounded in time and number, so that whoever sends half a request, or nothing,
//! is not waited for, and keeps nobody else out.

use std::io::Result;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixListener as LocalListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceBuilder;

use super::auth::Peer;
use super::certificate::Certificate;
use super::control::Control;
use super::routes::router;
use crate::log;

/// Connections at most: from the network, and from this machine.
const MOST_REMOTE: usize = 192;
const MOST_LOCAL: usize = 64;
/// How long a handshake may take, and a request's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers that are on their way have, when this process is to end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Becomes true when this process is to end.
type Ends = watch::Receiver<bool>;
/// Where there are no file descriptors or no memory for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves both, until this process is asked to end: what was asked before is answered.
///
/// # Errors
/// The port is taken.
pub(super) async fn serve(local: LocalListener, certificate: Certificate) -> Result<()> {
    let local = UnixListener::from_std(local)?;
    let remote = listen()?;
    let router = router(Control::open());
    let acceptor = TlsAcceptor::from(certificate.config());
    log::info(&format!("the API is at TCP port {}, known by {}", api::PORT, certificate.fingerprint()));
    let mut asked = signal(SignalKind::terminate())?;
    let (end, ends) = watch::channel(false);
    let room = [MOST_LOCAL, MOST_REMOTE].map(|most| Arc::new(Semaphore::new(most)));
    tokio::select! {
        () = serve_local(local, router.clone(), room[0].clone(), ends.clone()) => {}
        () = serve_remote(remote, acceptor, (router, room[1].clone(), ends)) => {}
        _ = asked.recv() => {}
    }
    let _ = end.send(true);
    let all_back = async {
        for (room, most) in room.iter().zip([MOST_LOCAL, MOST_REMOTE]) {
            let _ = room.acquire_many(most as u32).await;
        }
    };
    let _ = timeout(FAREWELL, all_back).await;
    Ok(())
}

/// All addresses of the node, of both kinds.
fn listen() -> Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, api::PORT)).into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn serve_local(listener: UnixListener, router: Router, room: Arc<Semaphore>, ends: Ends) {
    loop {
        let place = room.clone().acquire_owned().await;
        match (listener.accept().await, place) {
            (Ok((stream, _)), Ok(place)) => {
                tokio::spawn(talk(stream, Peer::Local, router.clone(), (place, ends.clone())));
            }
            _ => sleep(PAUSE).await,
        }
    }
}

async fn serve_remote(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    (router, room, ends): (Router, Arc<Semaphore>, Ends),
) {
    loop {
        // Those that have no place wait in the kernel's queue, and all that are here end in time or do something.
        let place = room.clone().acquire_owned().await;
        match (listener.accept().await, place) {
            (Ok((stream, address)), Ok(place)) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                let place = (place, ends.clone());
                tokio::spawn(greet(stream, address.ip().to_canonical(), acceptor, router, place));
            }
            _ => sleep(PAUSE).await,
        }
    }
}

async fn greet(
    stream: TcpStream,
    address: IpAddr,
    acceptor: TlsAcceptor,
    router: Router,
    place: (OwnedSemaphorePermit, Ends),
) {
    let _ = stream.set_nodelay(true);
    // What is no TLS is not answered: whoever sends it does not know with whom they talk.
    if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await {
        talk(stream, Peer::Remote(address), router, place).await;
    }
}

async fn talk<S>(stream: S, peer: Peer, router: Router, (place, mut ends): (OwnedSemaphorePermit, Ends))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = ServiceBuilder::new()
        .map_request(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            request.map(Body::new)
        })
        .service(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(32 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    let mut connection = pin!(connection);
    // However it ends, it is over.
    let is_over = tokio::select! {
        _ = connection.as_mut() => true,
        _ = ends.changed() => false,
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
    drop(place);
}
