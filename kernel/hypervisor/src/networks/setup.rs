//! What the kernel's line says of networks, applied when all of their ports are there.
//!
//! A word that is wrong is told, and the others hold. But a network that was to be closed must not be open because of a slip: where its
//! `default=`, or a rule, cannot be read, what no rule fits is denied there; and behind a rule that was to deny something nothing is
//! allowed, as it might be just that.

use core::fmt;

use super::{MAX_NETWORKS, Network, Networks};
use crate::config::is_name;
use crate::config::network::{self, Find, NetworkFault, NetworkWords};

/// Some of the networks, a bit for each.
#[derive(Clone, Copy, Default)]
struct Numbers(u16);

const _: () = assert!(MAX_NETWORKS <= u16::BITS as usize);

impl Numbers {
    const fn add(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    const fn has(self, number: usize) -> bool {
        self.0 >> number & 1 != 0
    }
}

/// What went wrong so far.
#[derive(Clone, Copy, Default)]
struct Wrong {
    /// Networks of which something could not be read that may have been to close them.
    unread: Numbers,
    /// Those with a rule among it that may have been to deny something.
    undenied: Numbers,
}

/// What a word of the kernel's line is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Network,
    Rule,
    Mirror,
}

impl About {
    /// In the order in which they are applied: rules find the default that they may have to change.
    const ALL: [Self; 3] = [Self::Network, Self::Rule, Self::Mirror];

    /// What stands before the network's name and behind it, and the whole as an example.
    const fn form(self) -> (&'static str, char, &'static str) {
        match self {
            Self::Network => ("network=", ',', "network=NAME,default=deny"),
            Self::Rule => ("rule=", ':', "rule=NAME:deny,WORD,..."),
            Self::Mirror => ("mirror=", ':', "mirror=NAME:both=VM,to=VM"),
        }
    }
}

impl Networks {
    /// Applies what the kernel's line says, and tells in the log how the networks are.
    pub(crate) fn set_up(&self, words: &[&str]) {
        let mut wrong = Wrong::default();
        for about in About::ALL {
            let (key, ..) = about.form();
            for word in words {
                if let Some(text) = word.strip_prefix(key) {
                    self.apply(about, text, &mut wrong);
                }
            }
        }
        for (number, network) in self.iter().enumerate() {
            if wrong.unread.has(number) {
                network.switch.rules.set_default(false);
                log::error!(
                    "network {}: nothing passes that no rule allows, as what is to hold there cannot be read",
                    network.name
                );
            }
            log::info!("network {}: {}", network.name, Summary(network));
        }
    }

    /// Applies one word, but for what it begins with.
    fn apply(&self, about: About, text: &str, wrong: &mut Wrong) {
        let (key, mark, form) = about.form();
        let (name, words) = match text.split_once(mark) {
            Some((name, words)) => (name, Some(network::words(words))),
            None => (text, None),
        };
        let found = self.iter().enumerate().find(|(_, network)| network.name.as_str() == name);
        let fault = match (found, words.clone()) {
            _ if !is_name(name) => NetworkFault::NoName(form),
            (None, _) => NetworkFault::NoNetwork(name),
            (Some(_), None) => NetworkFault::Nothing(form),
            (Some((number, network)), Some(words)) => {
                match network.apply(about, words, wrong.undenied.has(number)) {
                    Ok(()) => return,
                    Err(fault) => fault,
                }
            }
        };
        log::error!("{key}{name}: {fault} (in {text})");
        let Some((number, _)) = found else { return };
        if may_close(about, &fault) {
            wrong.unread.add(number);
        }
        if about == About::Rule && words.and_then(|mut words| words.next()) != Some("allow") {
            wrong.undenied.add(number);
        }
    }
}

/// Whether what cannot be read may have been to close a network.
fn may_close(about: About, fault: &NetworkFault<'_>) -> bool {
    match about {
        About::Network => !matches!(fault, NetworkFault::Value(word, _) if word.starts_with("age=")),
        About::Rule => true,
        About::Mirror => false,
    }
}

impl Network {
    fn apply<'a>(
        &self,
        about: About,
        words: impl Iterator<Item = &'a str> + Clone,
        is_undenied: bool,
    ) -> Result<(), NetworkFault<'a>> {
        let find: Find<'_> = &|place| self.ports_of(place);
        match about {
            About::Network => {
                self.change(network::network(words)?);
                Ok(())
            }
            About::Rule if is_undenied && words.clone().next() == Some("allow") => {
                Err(NetworkFault::Undenied)
            }
            About::Rule => self.add_rule(words, find).map(|_| ()),
            About::Mirror => self.add_mirror(words, find).map(|_| ()),
        }
    }

    /// Does what was read of it.
    pub(crate) fn change(&self, read: NetworkWords) {
        if let Some(allow) = read.allow {
            self.switch.rules.set_default(allow);
        }
        if let Some(age) = read.age {
            self.switch.addresses.set_age(age);
        }
    }

    /// One more rule, behind all others. Returns its number, from 0 on.
    pub(crate) fn add_rule<'a>(
        &self,
        words: impl Iterator<Item = &'a str>,
        find: Find<'_>,
    ) -> Result<usize, NetworkFault<'a>> {
        let rule = network::rule(words, find)?;
        let number = self.switch.rules.count_of_rules();
        if self.switch.rules.add(rule) { Ok(number) } else { Err(NetworkFault::ManyRules) }
    }

    /// One more mirror. Returns its number, from 0 on.
    pub(crate) fn add_mirror<'a>(
        &self,
        words: impl Iterator<Item = &'a str>,
        find: Find<'_>,
    ) -> Result<usize, NetworkFault<'a>> {
        let session = network::mirror(words, find)?;
        let mut number = None;
        self.switch.mirrors.change(|sessions| {
            number = sessions.try_push(session).is_ok().then(|| sessions.len() - 1);
        });
        number.ok_or(NetworkFault::ManyMirrors)
    }

    /// Takes a mirror away. False where there is none of that number.
    pub(crate) fn remove_mirror(&self, number: usize) -> bool {
        let mut is_there = false;
        self.switch.mirrors.change(|sessions| is_there = sessions.pop_at(number).is_some());
        is_there
    }
}

/// A network in a few words.
struct Summary<'n>(&'n Network);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = &self.0.switch;
        let verdict = network::verdict_name(switch.rules.allows_by_default());
        let (rules, mirrors) = (switch.rules.count_of_rules(), switch.mirrors.list().len());
        write!(f, "{} ports, default {verdict}, {rules} rules, {mirrors} mirrors", switch.ports().count())
    }
}
