//! Tokens: who may ask over the network. Their secrets are kept nowhere, only what comes of them by SHA-256.

use std::fs::{self, File};
use std::io::{Read, Result};
use std::path::{Path, PathBuf};

use api::access::{MadeToken, NewToken, Rights, Token};
use api::name::Name;
use api::{Error, Reason};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::operation::Known;
use crate::{clock, durable, log};

/// The folder, below the node's data.
pub(crate) const FOLDER: &str = "/data/access";
const FILE: &str = "tokens.toml";
/// Tokens at most.
const MOST: usize = 256;
/// Random bytes of a secret.
const SECRET: usize = 20;
/// The one that is made at the first start.
const FIRST: &str = "first";

/// All of them.
pub(super) struct Access {
    folder: PathBuf,
    tokens: Vec<Kept>,
    /// The secret of the first one, which is shown once, on the screen, until somebody has used a token.
    first: Option<String>,
}

/// What is kept of one.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Kept {
    name: Name,
    rights: Rights,
    made: u64,
    hash: String,
    /// Nobody has used it yet, and perhaps nobody has it: the first one is made anew then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
}

#[derive(Default, Deserialize, Serialize)]
struct Tokens {
    #[serde(default)]
    token: Vec<Kept>,
}

impl Access {
    /// What is kept, or a first token where nothing is.
    ///
    /// # Errors
    /// It cannot be read, or written: it is not made anew then, as whoever has a token would be shut out.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let mut access = Self { folder: folder.to_owned(), tokens: Vec::new(), first: None };
        if path.is_file() {
            let named =
                |error: &dyn std::fmt::Display| std::io::Error::other(format!("{}: {error}", path.display()));
            let text = fs::read_to_string(&path).map_err(|error| named(&error))?;
            access.tokens = toml::from_str::<Tokens>(&text).map_err(|error| named(&error))?.token;
            if !access.tokens.iter().all(|kept| kept.is_new) {
                return Ok(access);
            }
            // Whoever was to read it from the screen has not: it shows another one.
            access.tokens.clear();
        }
        let name = FIRST.parse::<Name>().map_err(std::io::Error::other)?;
        let made = access.make(&NewToken { name, rights: Rights::Full }, String::new())?;
        access.first = Some(made.secret);
        access.tokens.iter_mut().for_each(|kept| kept.is_new = true);
        access.write()?;
        Ok(access)
    }

    /// Somebody has used a token: the screen need not show it any more.
    pub(super) fn is_used(&mut self, name: &Name) {
        let Some(kept) = self.tokens.iter_mut().find(|kept| kept.name == *name && kept.is_new) else {
            return;
        };
        kept.is_new = false;
        self.first = None;
        log::info(&format!("access: token {name} is used for the first time"));
        if let Err(error) = self.write() {
            log::warn(&format!("access: {error}"));
        }
    }

    /// The secret that the screen shows.
    pub(super) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// What is good for something.
    pub(super) fn known(&self) -> Vec<Known> {
        let known = |kept: &Kept| Known {
            name: kept.name.clone(),
            rights: kept.rights,
            hash: kept.hash.clone(),
            is_new: kept.is_new,
        };
        self.tokens.iter().map(known).collect()
    }

    /// All of them, without what is secret.
    pub(super) fn list(&self) -> Vec<Token> {
        let token = |kept: &Kept| Token { name: kept.name.clone(), rights: kept.rights, made: kept.made };
        self.tokens.iter().map(token).collect()
    }

    /// A new one.
    ///
    /// # Errors
    /// There is one of that name; there are too many; it cannot be written.
    pub(super) fn make(
        &mut self,
        new: &NewToken,
        fingerprint: String,
    ) -> std::result::Result<MadeToken, Error> {
        if self.tokens.iter().any(|kept| kept.name == new.name) {
            return Err(Error::new(
                Reason::NameTaken,
                format!("there is a token with the name {}", new.name),
            )
            .next("choose another name, or delete that one first: `basalt access delete`"));
        }
        if self.tokens.len() >= MOST {
            return Err(Error::new(Reason::TooMany, format!("there are {MOST} tokens"))
                .next("delete one that nobody needs: `basalt access list`"));
        }
        let secret = secret()?;
        let (made, hash) = (clock::seconds(), hash(&secret));
        let kept = Kept { name: new.name.clone(), rights: new.rights, made, hash, is_new: false };
        self.tokens.push(kept);
        if let Err(error) = self.write() {
            self.tokens.pop();
            return Err(error.into());
        }
        // Whoever can make one has one.
        self.first = None;
        self.tokens.iter_mut().for_each(|kept| kept.is_new = false);
        log::info(&format!("access: token {} is made", new.name));
        Ok(MadeToken { name: new.name.clone(), secret, fingerprint })
    }

    /// One is good for nothing any more.
    ///
    /// # Errors
    /// There is no such one; it is the last one that may change anything; it cannot be written.
    pub(super) fn delete(&mut self, name: &Name) -> std::result::Result<(), Error> {
        let Some(at) = self.tokens.iter().position(|kept| kept.name == *name) else {
            return Err(Error::new(Reason::NotFound, format!("there is no token {name}"))
                .next("`basalt access list` shows all"));
        };
        let is_full = |(other, kept): (usize, &Kept)| other != at && kept.rights == Rights::Full;
        if !self.tokens.iter().enumerate().any(is_full) {
            return Err(Error::new(Reason::InUse, format!("{name} is the last token with full rights"))
                .next("make another one first: `basalt access create`"));
        }
        let gone = self.tokens.remove(at);
        if let Err(error) = self.write() {
            self.tokens.insert(at, gone);
            return Err(error.into());
        }
        log::info(&format!("access: token {name} is deleted"));
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let text = toml::to_string(&Tokens { token: self.tokens.clone() }).map_err(std::io::Error::other)?;
        durable::write(&self.folder.join(FILE), text.as_bytes(), durable::FOR_ROOT)
    }
}

/// What is kept of a secret. It has so many random bits that nobody finds it by trying.
pub(crate) fn hash(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new one: letters and digits that cannot be taken for each other, in groups, as people have to type the first one.
fn secret() -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; SECRET];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect::<Vec<_>>();
    let groups: Vec<String> = letters.chunks(5).map(|group| group.iter().collect()).collect();
    Ok(groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_last_and_their_secrets_do_not() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-access", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let lost = Access::open(&folder).expect("it can be written").first().map(str::to_owned);
        // Nobody has used it: another one is shown.
        let mut access = Access::open(&folder).expect("it can be read");
        assert!(access.first().is_some() && access.first() != lost.as_deref() && access.list().len() == 1);
        let first = access.first().expect("it is shown").to_owned();
        assert_eq!((first.len(), access.known()[0].hash.clone()), (23, hash(&first)));
        access.is_used(&FIRST.parse().expect("a name"));
        assert!(access.first().is_none() && Access::open(&folder).expect("it can be read").first().is_none());
        let new = |name: &str, rights| NewToken { name: name.parse().expect("a name"), rights };
        let made = access.make(&new("eve", Rights::ReadOnly), "f".to_owned()).expect("room");
        assert!(access.first().is_none() && made.secret != first);
        let error = access.make(&new("eve", Rights::Full), String::new()).expect_err("taken");
        assert_eq!(error.reason, Reason::NameTaken);
        let error = access.delete(&new("first", Rights::Full).name).expect_err("the last one");
        assert_eq!(error.reason, Reason::InUse);
        let again = Access::open(&folder).expect("it can be read");
        assert_eq!(again.list(), access.list());
        assert!(!fs::read_to_string(folder.join(FILE)).expect("text").contains(&made.secret));
        access.delete(&new("eve", Rights::Full).name).expect("it is there");
        assert_eq!(access.list().len(), 1);
        fs::write(folder.join(FILE), "nonsense").expect("room");
        assert!(
            Access::open(&folder).is_err(),
            "nobody is let in by a broken file, and nobody is shut out for good"
        );
        fs::remove_dir_all(folder).expect("it is there");
    }
}
