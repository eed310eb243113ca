//! What the network process tells of the interfaces: a line each, `name hardware-address state ...`.

use std::fmt;
use std::net::Ipv4Addr;

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Port {
    /// As the kernel calls it.
    pub(crate) name: String,
    /// Its Ethernet address, as `/sys` writes it.
    pub(crate) hardware: String,
    /// How far it has come.
    pub(crate) state: State,
}

/// How far an interface has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It was switched on a moment ago.
    Starting,
    /// No cable, or nobody at its end.
    NoCarrier,
    /// It asks for an address.
    Asking,
    /// It has asked for a while, and goes on.
    Unanswered,
    /// It has one.
    Leased { address: Ipv4Addr, prefix: u8, router: Option<Ipv4Addr> },
}

impl State {
    /// Whether there is nothing to wait for.
    pub(crate) fn is_settled(self) -> bool {
        matches!(self, Self::NoCarrier | Self::Unanswered | Self::Leased { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => formatter.write_str("starting"),
            Self::NoCarrier => formatter.write_str("no-carrier"),
            Self::Asking => formatter.write_str("asking"),
            Self::Unanswered => formatter.write_str("unanswered"),
            Self::Leased { address, prefix, router } => {
                write!(formatter, "leased {address}/{prefix}")?;
                router.map_or(Ok(()), |router| write!(formatter, " {router}"))
            }
        }
    }
}

/// The lines of these interfaces.
pub(crate) fn write<'a>(ports: impl IntoIterator<Item = &'a Port>) -> String {
    ports.into_iter().map(|Port { name, hardware, state }| format!("{name} {hardware} {state}\n")).collect()
}

/// Reads such lines; what is none of them is left out.
pub(crate) fn read(text: &str) -> Vec<Port> {
    text.lines().filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<Port> {
    let mut words = line.split(' ');
    let (name, hardware) = (words.next()?.to_owned(), words.next()?.to_owned());
    let state = match words.next()? {
        "starting" => State::Starting,
        "no-carrier" => State::NoCarrier,
        "asking" => State::Asking,
        "unanswered" => State::Unanswered,
        "leased" => {
            let (address, prefix) = words.next()?.split_once('/')?;
            let router = words.next().and_then(|router| router.parse().ok());
            State::Leased { address: address.parse().ok()?, prefix: prefix.parse().ok()?, router }
        }
        _ => return None,
    };
    Some(Port { name, hardware, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let leased = |router| State::Leased { address: Ipv4Addr::new(10, 0, 2, 15), prefix: 24, router };
        let states = [
            State::Starting,
            State::NoCarrier,
            State::Asking,
            State::Unanswered,
            leased(None),
            leased(Some(Ipv4Addr::new(10, 0, 2, 2))),
        ];
        let port = |state| Port { name: "eth0".to_owned(), hardware: "52:54:00:12:34:56".to_owned(), state };
        let ports = states.map(port).to_vec();
        assert_eq!(read(&write(&ports)), ports);
        assert!(read("eth0\nx y z\nx y leased 1.2.3.4\n").is_empty());
    }
}
