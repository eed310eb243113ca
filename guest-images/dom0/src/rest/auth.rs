//! Who asks, and what that may: a token in the header `Authorization` (RFC 6750, "Authorization Request Header Field"), or root of this machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::access::Rights;
use api::{Error, Reason};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::answer::Refusal;
use super::control::Control;
use crate::control::hash;
use crate::operation::{Known, Operation};

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Peer {
    /// A program of root's on this machine.
    Local,
    /// Somebody on the network.
    Remote(IpAddr),
}

/// Refusals in [`WINDOW`] after which an address is told to come back later.
const MOST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted; with more than that, the oldest counts go.
const MOST_ADDRESSES: usize = 1024;
/// Longer than any token.
const LONGEST: usize = 256;

/// Refusals by addresses.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<Mutex<HashMap<IpAddr, (Instant, u32)>>>);

impl Refusals {
    /// One more. Whether that are too many.
    fn count(&self, address: IpAddr, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES {
            all.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
        }
        if all.len() >= MOST_ADDRESSES {
            all.clear();
        }
        let (since, count) = all.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > MOST
    }
}

/// Lets pass who may ask.
pub(super) async fn guard(
    State((control, refusals)): State<(Control, Refusals)>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let is_console = request.uri().path().ends_with("/console");
    let tokens = control.tokens();
    let allowed = match peer {
        Some(Peer::Local) => Ok(None),
        Some(Peer::Remote(address)) => allowed(request.headers(), &tokens, changes || is_console)
            .map(Some)
            .map_err(|error| match refusals.count(address, Instant::now()) {
                true => Error::new(Reason::TooOften, "too many requests from this address were refused")
                    .next("wait a minute, and look at the token"),
                false => error,
            }),
        None => Err(Error::new(Reason::Failed, "nobody knows where this request came from")),
    };
    match allowed {
        Ok(used) => {
            if let Some(Known { name, .. }) = used.filter(|known| known.is_new) {
                // That it is shown for longer does no harm.
                let _ = control.ask(Operation::TokenUsed { token: name.clone() }).await;
            }
            next.run(request).await
        }
        Err(error) => Refusal(error).into_response(),
    }
}

/// The token, where it may do that.
fn allowed<'a>(headers: &HeaderMap, tokens: &'a [Known], changes: bool) -> Result<&'a Known, Error> {
    let refused = |why: &str| {
        Error::new(Reason::Unauthorized, why)
            .next("send `Authorization: Bearer TOKEN`; the node's screen shows the first token, `basalt access create` makes others")
    };
    let header = headers.get(header::AUTHORIZATION).ok_or_else(|| refused("there is no token"))?;
    let secret = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
    let secret = secret.filter(|secret| secret.len() <= LONGEST);
    let secret = secret.ok_or_else(|| refused("what stands in the header `Authorization` is no token"))?;
    let hash = hash(secret);
    // All are compared, each in the same time.
    let found = tokens.iter().fold(None, |found, known| {
        let is_it = bool::from(known.hash.as_bytes().ct_eq(hash.as_bytes()));
        if is_it { Some(known) } else { found }
    });
    let known = found.ok_or_else(|| refused("there is no such token"))?;
    if changes && known.rights == Rights::ReadOnly {
        return Err(Error::new(Reason::ReadOnly, format!("token {} may only read", known.name))
            .next("use one with full rights: `basalt access list` shows which they are"));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_needed() {
        let known = |name: &str, rights| Known {
            name: name.parse().expect("a name"),
            rights,
            hash: hash(name),
            is_new: false,
        };
        let tokens = [known("full", Rights::Full), known("eve", Rights::ReadOnly)];
        let ask = |header: Option<&str>, changes| {
            let mut headers = HeaderMap::new();
            header.map(|text| headers.insert(header::AUTHORIZATION, text.parse().expect("a header")));
            allowed(&headers, &tokens, changes).map(|_| ()).map_err(|error| error.reason)
        };
        assert_eq!(ask(Some("Bearer full"), true), Ok(()));
        assert_eq!(ask(Some("Bearer eve"), false), Ok(()));
        assert_eq!(ask(Some("Bearer eve"), true), Err(Reason::ReadOnly));
        for header in [None, Some("Bearer other"), Some("full"), Some("Basic full"), Some("Bearer ")] {
            assert_eq!(ask(header, false), Err(Reason::Unauthorized), "{header:?}");
        }
        assert_eq!(ask(Some(&format!("Bearer {}", "x".repeat(5000))), false), Err(Reason::Unauthorized));
    }

    #[test]
    fn who_is_refused_too_often_is_told_to_wait() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let address = |last| IpAddr::from([10, 0, (last >> 8) as u8, last as u8]);
        assert!((0..MOST).all(|_| !refusals.count(address(1), now)) && refusals.count(address(1), now));
        assert!(!refusals.count(address(2), now), "another address");
        assert!(!refusals.count(address(1), now + WINDOW), "a minute later");
        for last in 0..5000 {
            refusals.count(address(last), now);
        }
        assert!(refusals.0.lock().expect("nobody panics").len() <= MOST_ADDRESSES);
    }
}
