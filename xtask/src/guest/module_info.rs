//! What a kernel module says of itself: the `key=value` pairs of its section `.modinfo`.
//!
//! Source: Linux, `include/linux/moduleparam.h` and modinfo(8).

use object::{Object, ObjectSection};

use crate::failure::{Context, Result};

/// The pairs of one module.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct ModuleInfo(Vec<(String, String)>);

impl ModuleInfo {
    /// Reads a module's file.
    pub(super) fn read(module: &[u8], name: &str) -> Result<Self> {
        let file = object::File::parse(module).context(format_args!("the module {name}"))?;
        let Some(section) = file.section_by_name(".modinfo") else { return Ok(Self::default()) };
        Ok(Self::parse(section.data().context(format_args!("the module {name}"))?))
    }

    /// Reads the content of the section.
    pub(super) fn parse(section: &[u8]) -> Self {
        let texts = section.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let pairs = texts.filter_map(|text| {
            let (key, value) = text.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Self(pairs.collect())
    }

    /// The modules that it cannot be loaded without.
    pub(super) fn needs(&self) -> impl Iterator<Item = &str> {
        self.all("depends").flat_map(|names| names.split(',')).filter(|name| !name.is_empty())
    }

    /// What it says of a key, in its order.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ModuleInfo;

    #[test]
    fn a_module_names_what_it_needs() {
        let info = ModuleInfo::parse(b"alias=x\0alias=y*\0depends=virtio_ring,virtio\0retpoline=Y\0\0");
        assert_eq!(info.needs().collect::<Vec<_>>(), ["virtio_ring", "virtio"]);
        assert_eq!(info.all("alias").collect::<Vec<_>>(), ["x", "y*"]);
        assert_eq!(ModuleInfo::parse(b"depends=\0name=x\0").needs().count(), 0);
        assert!(ModuleInfo::read(b"nothing", "x").is_err());
    }
}
